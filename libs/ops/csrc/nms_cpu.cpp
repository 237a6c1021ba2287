// Binds nms.h to the operator uniav::nms_1d, which libs/ops/nms.py declares. A CUDA kernel registers beside it.
#include <torch/library.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <string>

#include "nms.h"

namespace {

uniav::NmsMethod parse_method(c10::string_view method) {
  if (method == "soft") return uniav::NmsMethod::kSoft;
  if (method == "soft_linear") return uniav::NmsMethod::kSoftLinear;
  TORCH_CHECK_VALUE(method == "hard", "NMS method must be soft, soft_linear or hard, got ", std::string(method));
  return uniav::NmsMethod::kHard;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> nms_1d(const at::Tensor& segments, const at::Tensor& scores,
                                                      const at::Tensor& groups, const at::Tensor& splits,
                                                      c10::string_view method, double iou_threshold, double sigma,
                                                      double min_score, int64_t max_seg_num) {
  const uniav::NmsOptions options{parse_method(method), static_cast<float>(iou_threshold), static_cast<float>(sigma),
                                  static_cast<float>(min_score), max_seg_num};
  const at::Tensor s = segments.contiguous(), p = scores.contiguous(), g = groups.contiguous(),
                   cuts = splits.contiguous();
  const int64_t n = p.numel(), videos = cuts.numel() - 1;
  TORCH_CHECK_VALUE(s.dim() == 2 && s.size(0) == n && s.size(1) == 2 && g.numel() == n,
                    "expected segments (N, 2), scores (N,) and groups (N,)");
  TORCH_CHECK_VALUE(videos >= 0, "expected splits (videos + 1,)");
  at::Tensor rows = at::zeros({videos, max_seg_num}, g.options());
  at::Tensor kept = at::zeros({videos, max_seg_num}, p.options());
  at::Tensor counts = at::zeros({videos}, g.options());
  const int64_t* cut = cuts.const_data_ptr<int64_t>();
  for (int64_t v = 0; v < videos; ++v)
    TORCH_CHECK_VALUE(0 <= cut[v] && cut[v] <= cut[v + 1] && cut[v + 1] <= n, "expected splits that rise from 0 to N");
  TORCH_CHECK_VALUE(!p.isnan().any().item<bool>() && !s.isnan().any().item<bool>(), "a segment or score is NaN");

  const float* segment = s.const_data_ptr<float>();
  const float* score = p.const_data_ptr<float>();
  const int64_t* group = g.const_data_ptr<int64_t>();
  int64_t* row = rows.mutable_data_ptr<int64_t>();
  float* kept_score = kept.mutable_data_ptr<float>();
  int64_t* count = counts.mutable_data_ptr<int64_t>();
  at::parallel_for(0, videos, 1, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t first = cut[v];
      int64_t* out = row + v * max_seg_num;
      count[v] = uniav::nms_one_video(segment + 2 * first, score + first, group + first, cut[v + 1] - first, options,
                                      out, kept_score + v * max_seg_num);
      for (int64_t i = 0; i < count[v]; ++i) out[i] += first;
    }
  });
  return {rows, kept, counts};
}

}  // namespace

TORCH_LIBRARY_IMPL(uniav, CPU, m) { m.impl("nms_1d", &nms_1d); }
