// 1-D non-maximum suppression of one video. Nothing of PyTorch here: the binding is nms_cpu.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace uniav {

enum class NmsMethod { kSoft, kSoftLinear, kHard };

struct NmsOptions {
  NmsMethod method;
  float iou_threshold;   // hard and linear: IoU from which segments compete
  float sigma;           // Gaussian: scores decay by exp(-IoU^2 / sigma)
  float min_score;       // decayed scores below it are dropped
  int64_t max_seg_num;   // picks at most
};

struct Candidate {
  float start, end, area, score;
  int64_t index;
};

// The candidates of one class that are still in the race, and the best of them.
struct ClassPool {
  std::vector<Candidate> candidates;
  size_t best = 0;

  void find_best() {
    best = 0;
    for (size_t i = 1; i < candidates.size(); ++i)
      if (candidates[i].score > candidates[best].score) best = i;
  }

  // Whether this pool's best comes before the other's; of equal scores the earlier row.
  bool leads(const ClassPool& other) const {
    const Candidate &own = candidates[best], &rival = other.candidates[other.best];
    return own.score > rival.score || (own.score == rival.score && own.index < rival.index);
  }

  Candidate take_best() {
    Candidate picked = candidates[best];
    candidates.erase(candidates.begin() + static_cast<int64_t>(best));
    return picked;
  }

  // Decay everyone's score by the overlap with `picked`, in place and in order.
  void decay(const Candidate& picked, const NmsOptions& options) {
    size_t kept = 0;
    for (Candidate c : candidates) {
      const float inter = std::max(0.0f, std::min(picked.end, c.end) - std::max(picked.start, c.start));
      const float iou = inter / (picked.area + c.area - inter);
      if (options.method == NmsMethod::kHard) {
        if (iou >= options.iou_threshold) continue;
      } else {
        if (options.method == NmsMethod::kSoft) c.score *= std::exp(-(iou * iou) / options.sigma);
        else if (iou >= options.iou_threshold) c.score *= 1.0f - iou;
        if (c.score < options.min_score) continue;
      }
      candidates[kept++] = c;
    }
    candidates.resize(kept);
  }
};

// segments (n, 2), scores (n), groups (n): only segments of one group compete. Writes the picks' row numbers and
// (decayed) scores, falling, and returns their number. Picks of a group come in falling score and touch their own
// group alone, so the best of all groups, max_seg_num times, is what exhausting each group and sorting would give.
inline int64_t nms_one_video(const float* segments, const float* scores, const int64_t* groups, int64_t n,
                             const NmsOptions& options, int64_t* picked_rows, float* picked_scores) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return groups[a] < groups[b]; });

  std::vector<ClassPool> pools;
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t row = order[i];
    if (i == 0 || groups[row] != groups[order[i - 1]]) pools.emplace_back();
    if (options.method == NmsMethod::kHard && !(scores[row] > options.min_score)) continue;
    const float start = segments[2 * row], end = segments[2 * row + 1];
    pools.back().candidates.push_back({start, end, end - start + 1e-6f, scores[row], row});
  }
  for (ClassPool& pool : pools) pool.find_best();

  int64_t count = 0;
  while (count < options.max_seg_num) {
    ClassPool* leader = nullptr;
    for (ClassPool& pool : pools) {
      if (pool.candidates.empty()) continue;
      if (!leader || pool.leads(*leader)) leader = &pool;
    }
    if (!leader) break;
    const Candidate picked = leader->take_best();
    picked_rows[count] = picked.index;
    picked_scores[count++] = picked.score;
    leader->decay(picked, options);
    leader->find_best();
  }
  return count;
}

}  // namespace uniav
