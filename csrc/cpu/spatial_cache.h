// Spatial lattices depend on the image size alone: the last few are kept for the next call.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <tuple>

#include "lattice.h"

namespace wsss {

class SpatialCache {
 public:
  // height, width, sx, sy, weight
  using Key = std::tuple<int64_t, int64_t, float, float, float>;

  static SpatialCache& instance() {
    static SpatialCache cache;
    return cache;
  }

  std::shared_ptr<const Lattice> find(const Key& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      if (it->first != key) continue;
      kept_.splice(kept_.begin(), kept_, it);
      return it->second;
    }
    return nullptr;
  }

  void keep(const Key& key, std::shared_ptr<const Lattice> lattice) {
    if (lattice->pixels > kMostPixels) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.emplace_front(key, std::move(lattice));
    if (kept_.size() > kMost) kept_.pop_back();
  }

 private:
  // At most some 100 MB: an entry takes 24 bytes a pixel.
  static constexpr size_t kMost = 4;
  static constexpr int64_t kMostPixels = 1 << 20;

  std::mutex mutex_;
  std::list<std::pair<Key, std::shared_ptr<const Lattice>>> kept_;  // most recently used first
};

}  // namespace wsss
