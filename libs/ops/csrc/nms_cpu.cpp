// Binds the CPU kernel to the operator uniav::nms_1d, which libs/ops/nms.py declares. Videos are spread over threads.
#include <torch/library.h>

#include <ATen/Parallel.h>

#include "nms_call.h"
#include "nms_heap.h"

namespace {

uniav::NmsResult nms_1d(const at::Tensor& segments, const at::Tensor& scores, const at::Tensor& groups,
                        const at::Tensor& splits, c10::string_view method, double iou_threshold, double sigma,
                        double min_score, int64_t max_seg_num) {
  const uniav::NmsCall call(segments, scores, groups, splits, method, iou_threshold, sigma, min_score, max_seg_num);
  const uniav::Candidates all = call.candidates();
  const uniav::Picks picks = call.picks();
  const int64_t* cut = call.splits.const_data_ptr<int64_t>();
  int64_t* count = call.counts.mutable_data_ptr<int64_t>();
  at::parallel_for(0, call.videos(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t first = cut[v];
      const uniav::Candidates own{all.segments + 2 * first, all.scores + first, all.groups + first, cut[v + 1] - first};
      const uniav::Picks out{picks.rows + v * max_seg_num, picks.scores + v * max_seg_num};
      count[v] = uniav::nms_heap(own, call.options, out);
      for (int64_t i = 0; i < count[v]; ++i) out.rows[i] += first;
    }
  });
  return call.result();
}

}  // namespace

TORCH_LIBRARY_IMPL(uniav, CPU, m) { m.impl("nms_1d", &nms_1d); }
