// Binds nms.h to the operator uniav::nms_1d, which libs/ops/nms.py declares. A CUDA kernel registers beside it.
#include <torch/library.h>

#include <ATen/ATen.h>
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
  for (int64_t v = 0; v < videos; ++v) {
    const int64_t first = cut[v], last = cut[v + 1];
    TORCH_CHECK_VALUE(0 <= first && first <= last && last <= n, "expected splits that rise from 0 to N");
    int64_t* out = rows.mutable_data_ptr<int64_t>() + v * max_seg_num;
    const int64_t count = uniav::nms_one_video(
        s.const_data_ptr<float>() + 2 * first, p.const_data_ptr<float>() + first, g.const_data_ptr<int64_t>() + first,
        last - first, options, out, kept.mutable_data_ptr<float>() + v * max_seg_num);
    for (int64_t i = 0; i < count; ++i) out[i] += first;
    counts.mutable_data_ptr<int64_t>()[v] = count;
  }
  return {rows, kept, counts};
}

}  // namespace

TORCH_LIBRARY_IMPL(uniav, CPU, m) { m.impl("nms_1d", &nms_1d); }
