// NMS of one video by a block of threads, each with a part of the candidates. It runs on GPUs, and on the host in a test.
#pragma once

#include "nms.h"

namespace uniav {

// Block has rank() and size(), and leader(mine), which waits for all threads and returns the leading one of their `mine` to
// each of them. scores_now (n) is scratch memory.
//
// Each pass handles one pick: scores of its group decay, and the next pick is found. A thread visits the same rows in every
// pass, so it reads only scores that it wrote itself. Divergent threads of a warp wait for each other, so each thread
// postpones its last decay to the end of the pass, where all threads decay together. With many classes it is the only one.
template <class Block>
UNIAV_HD int64_t nms_block(Block& block, const Candidates& all, const NmsOptions& options, float* scores_now,
                           const Picks& picks) {
  constexpr int kAtOnce = 4;
  for (int64_t row = block.rank(); row < all.n; row += block.size()) scores_now[row] = all.first_score(row, options);
  int64_t picked = -1, group = 0;
  for (int64_t count = 0; count < options.max_seg_num; ++count) {
    if (picked >= 0 && picked % block.size() == block.rank()) scores_now[picked] = kGone;
    Scored mine{kGone, INT64_MAX};
    const auto decay = [&](int64_t row) {
      const float score = decayed(scores_now[row], all.segments + 2 * picked, all.segments + 2 * row, options);
      scores_now[row] = score;
      const Scored own{score, row};
      if (score > kGone && own.leads(mine)) mine = own;
    };
    int64_t postponed = -1;
    for (int64_t first = block.rank(); first < all.n; first += kAtOnce * block.size()) {
      float scores[kAtOnce];
      int64_t groups[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) {
        const int64_t row = first + i * block.size();
        scores[i] = row < all.n ? scores_now[row] : kGone;
        groups[i] = row < all.n ? all.groups[row] : 0;
      }
      for (int i = 0; i < kAtOnce; ++i) {
        const int64_t row = first + i * block.size();
        if (picked >= 0 && groups[i] == group && scores[i] > kGone) {
          if (postponed >= 0) decay(postponed);
          postponed = row;
        } else if (const Scored own{scores[i], row}; scores[i] > kGone && own.leads(mine)) {
          mine = own;
        }
      }
    }
    if (postponed >= 0) decay(postponed);
    const Scored best = block.leader(mine);
    if (!(best.score > kGone)) return count;
    picked = best.row;
    group = all.groups[picked];
    if (block.rank() == 0) {
      picks.rows[count] = picked;
      picks.scores[count] = best.score;
    }
  }
  return options.max_seg_num;
}

}  // namespace uniav
