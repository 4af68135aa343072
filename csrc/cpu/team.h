// A team of threads that run one function together and synchronise at barriers.
//
// Not OpenMP's barriers: their threads spin, and on a machine shared with other processes the
// hundred barriers of a mean field then cost seconds. Here a thread spins briefly, then sleeps.
//
// Threads come from the host's pool, if it has one: after an operator of the host its threads spin
// for some milliseconds, and new threads would have to share the cores with them. Without a pool,
// and in a process forked from one that has it, threads live for one call.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace wsss {

class Team {
 public:
  explicit Team(int size) : size_(size) {}

  int size() const { return size_; }

  // Returns when every thread has called it. Throws when another thread of the team has failed.
  void barrier() {
    if (size_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (failed_.load(std::memory_order_acquire)) throw Abandoned();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.fetch_add(1, std::memory_order_release);
      phase_.notify_all();
    } else {
      for (int spin = 0; spin < kSpins && phase_.load(std::memory_order_acquire) == phase; ++spin) {
        pause();
      }
      while (phase_.load(std::memory_order_acquire) == phase) {
        phase_.wait(phase, std::memory_order_acquire);
      }
    }
    if (failed_.load(std::memory_order_acquire)) throw Abandoned();
  }

  // Part `rank` of `count` items, as [first, last).
  static std::pair<int64_t, int64_t> part(int64_t count, int rank, int parts) {
    return {count * rank / parts, count * (rank + 1) / parts};
  }

  // A pool calls work(first, last, context) for parts of [0, size), the part of 0 on the calling
  // thread, and must not delay one part until another has ended. It may return fewer, larger parts.
  using Pool = void (*)(int size, void (*work)(int first, int last, void* context), void* context);

  // Takes threads from `pool` from now on.
  static void use(Pool pool) { host() = {pool, process()}; }

  // Calls work(team, rank) on `size` threads, the caller being rank 0;
  // raises the first failure again.
  template <class Work>
  static void run(int size, Work work) {
    Team team(size);
    auto guarded = [&](int rank) {
      try {
        work(team, rank);
      } catch (const Abandoned&) {
      } catch (const std::bad_alloc&) {
        team.fail(Failure::kOutOfMemory, "");
      } catch (const std::invalid_argument& error) {
        team.fail(Failure::kInvalidArgument, error.what());
      } catch (const std::exception& error) {
        team.fail(Failure::kOther, error.what());
      }
    };
    auto run_part = [&](int first, int last) {
      std::vector<std::thread> threads;
      try {
        for (int rank = first + 1; rank < last; ++rank) threads.emplace_back(guarded, rank);
      } catch (const std::exception& error) {
        team.fail(Failure::kOther, std::string("a thread cannot be started: ") + error.what());
      }
      if (!team.failed_) guarded(first);
      for (auto& thread : threads) thread.join();
    };
    if (size > 1 && host().pool != nullptr && host().process == process()) {
      const auto call = [](int first, int last, void* context) {
        (*static_cast<decltype(run_part)*>(context))(first, last);
      };
      host().pool(size, call, &run_part);
    } else {
      run_part(0, size);
    }
    switch (team.failure_) {
      case Failure::kNone: return;
      case Failure::kOutOfMemory: throw std::bad_alloc();
      case Failure::kInvalidArgument: throw std::invalid_argument(team.error_);
      case Failure::kOther: throw std::runtime_error(team.error_);
    }
  }

 private:
  struct HostPool {
    Pool pool;
    int64_t process;  // whose threads they are
  };
  static HostPool& host() {
    static HostPool host{nullptr, 0};
    return host;
  }
  static int64_t process() {
#if defined(__unix__) || defined(__APPLE__)
    return getpid();
#else
    return 0;
#endif
  }

  struct Abandoned : std::runtime_error {
    Abandoned() : std::runtime_error("another thread failed") {}
  };
  static constexpr int kSpins = 4000;  // about 50 us

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  // Not a std::exception_ptr: its functions differ between releases of libstdc++, and one
  // wheel must run with all of them.
  enum class Failure { kNone, kOutOfMemory, kInvalidArgument, kOther };

  void fail(Failure failure, const std::string& error) {
    if (!failing_.exchange(true)) {
      failure_ = failure;
      error_ = error;
      failed_.store(true);
    }
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
  }

  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> phase_{0};
  std::atomic<bool> failing_{false}, failed_{false};
  Failure failure_ = Failure::kNone;  // the first one's
  std::string error_;
};

}  // namespace wsss
