// Spatial lattices depend only on the image size and the parameters of the term: the most recent
// ones are kept on the device for the next call.
#pragma once

#include <cstdint>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

namespace wsss::cuda {

// Memory is only used in the order of one stream, also after an entry is dropped, so no other
// stream has to be waited for. Calls that are captured in a graph must neither look up nor insert:
// the graph would use the memory after it is dropped.
class SpatialCache {
 public:
  struct Key {
    int device;
    void* stream;
    int64_t height, width;
    double sx, sy, weight;
    bool operator==(const Key&) const = default;
  };
  static constexpr int64_t kMaxBytes = int64_t{64} << 20;  // of all entries

  std::shared_ptr<void> find(const Key& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->key != key) continue;
      entries_.splice(entries_.begin(), entries_, it);
      return it->memory;
    }
    return nullptr;
  }

  // After the kernels that fill `memory` are queued.
  void insert(const Key& key, std::shared_ptr<void> memory, int64_t bytes) {
    std::list<Entry> dropped;  // freed without the lock
    const std::lock_guard<std::mutex> lock(mutex_);
    entries_.push_front({key, std::move(memory), bytes});
    bytes_ += bytes;
    while (bytes_ > kMaxBytes) {
      bytes_ -= entries_.back().bytes;
      dropped.splice(dropped.begin(), entries_, std::prev(entries_.end()));
    }
  }

 private:
  struct Entry {
    Key key;
    std::shared_ptr<void> memory;
    int64_t bytes;
  };
  std::mutex mutex_;
  std::list<Entry> entries_;  // most recently used first
  int64_t bytes_ = 0;
};

}  // namespace wsss::cuda
