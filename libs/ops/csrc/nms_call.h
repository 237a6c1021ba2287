// Shared by both bindings of uniav::nms_1d: validated arguments, and outputs.
#pragma once

#include <ATen/ATen.h>
#include <string>
#include <tuple>

#include "nms.h"

namespace uniav {

using NmsResult = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

inline NmsMethod parse_method(c10::string_view method) {
  if (method == "soft") return NmsMethod::kSoft;
  if (method == "soft_linear") return NmsMethod::kSoftLinear;
  TORCH_CHECK_VALUE(method == "hard", "NMS method must be soft, soft_linear or hard, got ", std::string(method));
  return NmsMethod::kHard;
}

struct NmsCall {
  NmsOptions options;
  at::Tensor segments, scores, groups, splits;
  at::Tensor rows, kept, counts;

  // Reads the values once for any number of videos, so a GPU is waited for once.
  NmsCall(const at::Tensor& segments, const at::Tensor& scores, const at::Tensor& groups, const at::Tensor& splits,
          c10::string_view method, double iou_threshold, double sigma, double min_score, int64_t max_seg_num)
      : options{parse_method(method), static_cast<float>(iou_threshold), static_cast<float>(sigma),
                static_cast<float>(min_score), max_seg_num},
        segments(segments.contiguous()), scores(scores.contiguous()), groups(groups.contiguous()),
        splits(splits.contiguous()) {
    const int64_t n = scores.numel(), videos = splits.numel() - 1;
    TORCH_CHECK_VALUE(scores.dim() == 1 && segments.sizes() == at::IntArrayRef({n, 2}) && groups.sizes() == scores.sizes(),
                      "expected segments (N, 2), scores (N,) and groups (N,)");
    TORCH_CHECK_VALUE(segments.dtype() == at::kFloat && scores.dtype() == at::kFloat,
                      "expected segments and scores of float32");
    TORCH_CHECK_VALUE(groups.dtype() == at::kLong && splits.dtype() == at::kLong,
                      "expected groups and splits of int64");
    const at::Device device = scores.device();
    TORCH_CHECK_VALUE(segments.device() == device && groups.device() == device && splits.device() == device,
                      "expected all tensors on one device");
    TORCH_CHECK_VALUE(splits.dim() == 1 && videos >= 0, "expected splits (videos + 1,)");
    TORCH_CHECK_VALUE(options.sigma > 0, "expected sigma > 0, got ", sigma);
    TORCH_CHECK_VALUE(max_seg_num >= 0, "expected max_seg_num >= 0, got ", max_seg_num);
    const at::Tensor rising = splits.slice(0, 1).ge(splits.slice(0, 0, videos)).all() & splits.ge(0).all();
    const at::Tensor fits = rising & splits.le(n).all();
    const at::Tensor not_finite = (scores - scores).any() | (segments - segments).any();  // x - x is NaN unless x is finite
    const at::Tensor valid = at::stack({fits, not_finite.logical_not()}).cpu();
    TORCH_CHECK_VALUE(valid[0].item<bool>(), "expected splits that rise between 0 and N");
    TORCH_CHECK_VALUE(valid[1].item<bool>(), "a segment or score is NaN or infinite");
    rows = at::zeros({videos, max_seg_num}, groups.options());
    kept = at::zeros({videos, max_seg_num}, scores.options());
    counts = at::zeros({videos}, groups.options());
  }

  int64_t videos() const { return counts.numel(); }

  Candidates candidates() const {
    return {segments.const_data_ptr<float>(), scores.const_data_ptr<float>(), groups.const_data_ptr<int64_t>(),
            scores.numel()};
  }

  Picks picks() const { return {rows.mutable_data_ptr<int64_t>(), kept.mutable_data_ptr<float>()}; }

  NmsResult result() const { return {rows, kept, counts}; }
};

}  // namespace uniav
