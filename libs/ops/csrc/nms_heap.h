// NMS of one video by one CPU thread, with a heap of scores that may be outdated.
//
// Scores only decrease, so an outdated score is an upper bound. The candidate with the highest bound is updated with the
// picks since its last update. If it still leads, it is the next pick. Most candidates are never updated.
#pragma once

#include <algorithm>
#include <vector>

#include "nms.h"

namespace uniav {

struct Bounded : Scored {
  int64_t seen;  // number of picks that the score includes
};

inline int64_t nms_heap(const Candidates& all, const NmsOptions& options, const Picks& picks) {
  const auto behind = [](const Scored& a, const Scored& b) { return b.leads(a); };
  std::vector<Bounded> heap;
  heap.reserve(static_cast<size_t>(all.n));
  for (int64_t row = 0; row < all.n; ++row) {
    const float score = all.first_score(row, options);
    if (score > kGone) heap.push_back({{score, row}, 0});
  }
  std::make_heap(heap.begin(), heap.end(), behind);

  int64_t count = 0;
  while (count < options.max_seg_num && !heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), behind);
    Bounded& leader = heap.back();
    const float bound = leader.score;
    for (; leader.seen < count && leader.score > kGone; ++leader.seen) {
      const int64_t picked = picks.rows[leader.seen];
      if (all.groups[picked] == all.groups[leader.row])
        leader.score = decayed(leader.score, all.segments + 2 * picked, all.segments + 2 * leader.row, options);
    }
    if (leader.score == bound) {
      picks.rows[count] = leader.row;
      picks.scores[count++] = leader.score;
    } else if (leader.score > kGone) {
      std::push_heap(heap.begin(), heap.end(), behind);
      continue;
    }
    heap.pop_back();
  }
  return count;
}

}  // namespace uniav
