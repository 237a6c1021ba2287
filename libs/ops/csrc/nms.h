// 1-D non-maximum suppression of one video, for CPUs and GPUs. This file does not depend on PyTorch.
//
// A pick changes scores of its own group only, and the picks of a group have descending scores. Therefore picking the best
// candidate of all groups max_seg_num times gives the same as NMS of each group followed by sorting. Both kernels do that.
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
  int64_t max_seg_num;   // largest number of picks
};

constexpr float kGone = -INFINITY;  // the score of candidates that are picked or dropped

// n candidates of one video; only segments of one group compete.
struct Candidates {
  const float* segments;  // (n, 2)
  const float* scores;    // (n)
  const int64_t* groups;  // (n)
  int64_t n;

  UNIAV_HD float first_score(int64_t row, const NmsOptions& options) const {
    const bool competes = options.method != NmsMethod::kHard || scores[row] > options.min_score;
    return competes ? scores[row] : kGone;
  }
};

// Output of one video: row numbers and (decayed) scores of the picks, in descending order of score.
struct Picks {
  int64_t* rows;
  float* scores;
};

struct Scored {
  float score;
  int64_t row;

  // The order of picking: higher scores first, and the earlier row of equal scores.
  UNIAV_HD bool leads(const Scored& other) const {
    return score > other.score || (score == other.score && row < other.row);
  }
};

// The score of segment `own` after `picked` was picked from its group: decayed, or kGone.
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
