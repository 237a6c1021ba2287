// The CUDA kernel: one block of threads per video. It does not depend on PyTorch; the binding is nms_cuda_binding.cpp.
#include <cuda_runtime.h>

#include "nms_block.h"
#include "nms_cuda.h"

namespace uniav {
namespace {

constexpr int kWarp = 32, kThreads = 1024, kWarps = kThreads / kWarp;

// Two sets of slots alternate, so the next round may write one while the other is still read.
struct CudaBlock {
  Scored (*slots)[kWarps];
  int turn = 0;

  __device__ int64_t rank() const { return threadIdx.x; }
  __device__ int64_t size() const { return kThreads; }

  __device__ static Scored leader_of_warp(Scored mine) {
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
      Scored other;
      other.score = __shfl_xor_sync(0xffffffffu, mine.score, lanes);
      other.row = __shfl_xor_sync(0xffffffffu, static_cast<long long>(mine.row), lanes);
      if (other.leads(mine)) mine = other;
    }
    return mine;
  }

  __device__ Scored leader(Scored mine) {
    mine = leader_of_warp(mine);
    if (threadIdx.x % kWarp == 0) slots[turn][threadIdx.x / kWarp] = mine;
    __syncthreads();
    mine = leader_of_warp(slots[turn][threadIdx.x % kWarp]);
    turn = 1 - turn;
    return mine;
  }
};
static_assert(kWarps == kWarp, "the second round of leader() reads one slot per lane");

__global__ void __launch_bounds__(kThreads, 1) nms_kernel(const NmsBatch batch, const NmsOptions options) {
  __shared__ Scored slots[2][kWarps];
  CudaBlock block{slots};
  for (int64_t v = blockIdx.x; v < batch.videos; v += gridDim.x) {
    const int64_t first = batch.splits[v];
    const Candidates own{batch.all.segments + 2 * first, batch.all.scores + first, batch.all.groups + first,
                         batch.splits[v + 1] - first};
    const Picks picks{batch.picks.rows + v * options.max_seg_num, batch.picks.scores + v * options.max_seg_num};
    const int64_t count = nms_block(block, own, options, batch.scores_now + first, picks);
    if (threadIdx.x == 0) batch.counts[v] = count;
    __syncthreads();  // thread 0 wrote the picks
    for (int64_t i = threadIdx.x; i < count; i += kThreads) picks.rows[i] += first;
  }
}

}  // namespace

const char* launch_nms(const NmsBatch& batch, const NmsOptions& options, CUstream_st* stream) {
  if (batch.videos == 0) return nullptr;
  const unsigned blocks = static_cast<unsigned>(batch.videos < 65535 ? batch.videos : 65535);
  nms_kernel<<<blocks, kThreads, 0, stream>>>(batch, options);
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

}  // namespace uniav
