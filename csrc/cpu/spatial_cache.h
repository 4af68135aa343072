// Spatial lattices depend only on the image size and the parameters of the term: the most recent
// ones are cached for the next call.
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
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->first != key) continue;
      entries_.splice(entries_.begin(), entries_, it);
      return it->second;
    }
    return nullptr;
  }

  void insert(const Key& key, std::shared_ptr<const Lattice> lattice) {
    if (lattice->pixels > kMaxPixels) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.emplace_front(key, std::move(lattice));
    if (entries_.size() > kMaxEntries) entries_.pop_back();
  }

 private:
  // About 100 MB at most: an entry takes 24 bytes per pixel.
  static constexpr size_t kMaxEntries = 4;
  static constexpr int64_t kMaxPixels = 1 << 20;

  std::mutex mutex_;
  std::list<std::pair<Key, std::shared_ptr<const Lattice>>> entries_;  // most recently used first
};

}  // namespace wsss
