// The GPU's algorithm on the host, with a block of std::threads. Called by test_nms.py.
#include <barrier>
#include <thread>
#include <vector>

#include "nms_block.h"

namespace {

struct Shared {
  explicit Shared(int threads) : barrier(threads), slots(static_cast<size_t>(threads)) {}
  std::barrier<> barrier;
  std::vector<uniav::Scored> slots;
};

struct HostBlock {
  Shared& shared;
  int64_t own_rank;

  int64_t rank() const { return own_rank; }
  int64_t size() const { return static_cast<int64_t>(shared.slots.size()); }

  uniav::Scored leader(uniav::Scored mine) {
    shared.slots[static_cast<size_t>(own_rank)] = mine;
    shared.barrier.arrive_and_wait();
    for (const uniav::Scored& other : shared.slots)
      if (other.leads(mine)) mine = other;
    shared.barrier.arrive_and_wait();
    return mine;
  }
};

}  // namespace

extern "C" int64_t nms_block_host(const float* segments, const float* scores, const int64_t* groups, int64_t n,
                                  int method, float iou_threshold, float sigma, float min_score, int64_t max_seg_num,
                                  int threads, float* scratch, int64_t* rows, float* picked_scores) {
  const uniav::NmsOptions options{static_cast<uniav::NmsMethod>(method), iou_threshold, sigma, min_score, max_seg_num};
  const uniav::Candidates all{segments, scores, groups, n};
  Shared shared(threads);
  std::vector<std::thread> team;
  int64_t count = 0;
  for (int rank = 0; rank < threads; ++rank)
    team.emplace_back([&, rank] {
      HostBlock block{shared, rank};
      const int64_t found = uniav::nms_block(block, all, options, scratch, {rows, picked_scores});
      if (rank == 0) count = found;
    });
  for (std::thread& thread : team) thread.join();
  return count;
}
