// 1-D non-maximum suppression of one video, for CPUs and GPUs. Nothing of PyTorch here: the bindings are beside it.
//
// Picks of a group come in falling score and touch their own group alone. So the best of all groups, max_seg_num times,
// is what exhausting each group and sorting would give, and that is all that either kernel does.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define UNIAV_HD __host__ __device__
#else
#define UNIAV_HD
#endif

namespace uniav {

enum class NmsMethod { kSoft, kSoftLinear, kHard };

struct NmsOptions {
  NmsMethod method;
  float iou_threshold;   // hard and linear: IoU from which segments compete
  float sigma;           // Gaussian: scores decay by exp(-IoU^2 / sigma)
  float min_score;       // decayed scores below it are dropped
  int64_t max_seg_num;   // picks at most
};

constexpr float kGone = -INFINITY;  // the score of what is picked or dropped

// n candidates of one video; only segments of one group compete.
struct Candidates {
  const float* segments;  // (n, 2)
  const float* scores;    // (n)
  const int64_t* groups;  // (n)
  int64_t n;

  UNIAV_HD float first_score(int64_t row, const NmsOptions& options) const {
    const bool races = options.method != NmsMethod::kHard || scores[row] > options.min_score;
    return races ? scores[row] : kGone;
  }
};

// Where the picks of one video go: row numbers and (decayed) scores, falling.
struct Picks {
  int64_t* rows;
  float* scores;
};

struct Scored {
  float score;
  int64_t row;

  // The order of picking; of equal scores the earlier row. kGone leads nothing.
  UNIAV_HD bool leads(const Scored& other) const {
    return score > other.score || (score == other.score && row < other.row);
  }
};

// A score after `picked` was picked from the same group: decayed, or kGone.
UNIAV_HD inline float decayed(float score, const float* picked, const float* own, const NmsOptions& options) {
  const float inter = fmaxf(0.0f, fminf(picked[1], own[1]) - fmaxf(picked[0], own[0]));
  const float areas = (picked[1] - picked[0] + 1e-6f) + (own[1] - own[0] + 1e-6f);
  const float iou = inter / (areas - inter);
  if (options.method == NmsMethod::kHard) return iou >= options.iou_threshold ? kGone : score;
  if (options.method == NmsMethod::kSoft) score *= expf(-(iou * iou) / options.sigma);
  else if (iou >= options.iou_threshold) score *= 1.0f - iou;
  return score < options.min_score ? kGone : score;
}

}  // namespace uniav
