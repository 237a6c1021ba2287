// Binds the CUDA kernel to the operator uniav::nms_1d. Candidates and picks stay on the device.
#include <torch/library.h>

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "nms_call.h"
#include "nms_cuda.h"

namespace {

uniav::NmsResult nms_1d(const at::Tensor& segments, const at::Tensor& scores, const at::Tensor& groups,
                        const at::Tensor& splits, c10::string_view method, double iou_threshold, double sigma,
                        double min_score, int64_t max_seg_num) {
  const c10::cuda::CUDAGuard guard(scores.device());
  const uniav::NmsCall call(segments, scores, groups, splits, method, iou_threshold, sigma, min_score, max_seg_num);
  const at::Tensor scratch = at::empty_like(call.scores);
  const uniav::NmsBatch batch{call.candidates(),
                              call.splits.const_data_ptr<int64_t>(),
                              call.videos(),
                              scratch.mutable_data_ptr<float>(),
                              call.picks(),
                              call.counts.mutable_data_ptr<int64_t>()};
  const char* error = uniav::launch_nms(batch, call.options, c10::cuda::getCurrentCUDAStream());
  TORCH_CHECK(error == nullptr, "the NMS kernel did not start: ", error);
  return call.result();
}

}  // namespace

TORCH_LIBRARY_IMPL(uniav, CUDA, m) { m.impl("nms_1d", &nms_1d); }
