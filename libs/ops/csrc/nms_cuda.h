// Interface of the CUDA kernel for its binding. It includes no CUDA header, so any C++ compiler reads it.
#pragma once

#include "nms.h"

struct CUstream_st;

namespace uniav {

// A batch of videos; all pointers are device pointers. Video v has rows splits[v] … splits[v + 1] - 1.
struct NmsBatch {
  Candidates all;         // of all videos
  const int64_t* splits;  // (videos + 1)
  int64_t videos;
  float* scores_now;      // (n) scratch
  Picks picks;            // (videos, max_seg_num), zeros beyond the counts
  int64_t* counts;        // (videos)
};

// Queues the kernel on a stream. Returns nullptr or CUDA's error message.
const char* launch_nms(const NmsBatch& batch, const NmsOptions& options, CUstream_st* stream);

}  // namespace uniav
