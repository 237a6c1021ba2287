// NMS of one video by a block of threads, which share the candidates out. For GPUs; on the host a test runs it.
#pragma once

#include "nms.h"

namespace uniav {

// Block: rank() and size() of this thread, leader(mine): the one of all threads' `mine` that leads, told to every thread,
// none of which goes on before all have called. scores_now (n): scratch.
// A pass a pick: everyone's score decays by the last pick, and the next is found. Each thread visits the same rows in
// every pass, so it reads what it wrote itself.
template <class Block>
UNIAV_HD int64_t nms_block(Block& block, const Candidates& all, const NmsOptions& options, float* scores_now,
                           const Picks& picks) {
  for (int64_t row = block.rank(); row < all.n; row += block.size()) scores_now[row] = all.first_score(row, options);
  int64_t picked = -1, group = 0;
  for (int64_t count = 0; count < options.max_seg_num; ++count) {
    Scored mine{kGone, INT64_MAX};
    for (int64_t row = block.rank(); row < all.n; row += block.size()) {
      float score = scores_now[row];
      if (!(score > kGone)) continue;
      if (row == picked) {
        scores_now[row] = score = kGone;
      } else if (picked >= 0 && all.groups[row] == group) {
        scores_now[row] = score = decayed(score, all.segments + 2 * picked, all.segments + 2 * row, options);
      }
      const Scored own{score, row};
      if (score > kGone && own.leads(mine)) mine = own;
    }
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
