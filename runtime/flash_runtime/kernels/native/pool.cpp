#include "pool.h"

#include <unistd.h>

namespace flash {
namespace {

// Tens of microseconds: longer than the gaps inside a step, short enough not to burn a throttled CPU quota.
constexpr int kSpins = 1000;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns once the value differs from `old`: spins first, then sleeps in the kernel.
void wait_for_change(const std::atomic<int>& value, int old) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause_briefly();
    }
    value.wait(old, std::memory_order_acquire);
}

} // namespace

Pool::Pool(int threads) : parts_(static_cast<size_t>(threads)), owner_(getpid()) {
    workers_.reserve(static_cast<size_t>(threads - 1));
    try {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {
        stop_ = true;
        round_ += 2;
        round_.notify_all();
        for (auto& worker : workers_) worker.join();
        throw;
    }
}

Pool::~Pool() {
    if (getpid() != owner_) { // a forked child inherited the object but not the threads
        for (auto& worker : workers_) worker.detach();
        return;
    }
    stop_ = true;
    round_ += 2;
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::run_shared(int count, Function function, const void* context) {
    function_ = function;
    context_ = context;
    const uint64_t tasks = static_cast<uint64_t>(count);
    for (size_t i = 0; i < parts_.size(); ++i) {
        const uint64_t begin = tasks * i / parts_.size();
        const uint64_t end = tasks * (i + 1) / parts_.size();
        parts_[i].range.store(end << 32 | begin, std::memory_order_relaxed);
    }
    round_.fetch_add(1); // open
    round_.notify_all();
    take_tasks(0);
    round_.fetch_add(1); // closed: from here on nobody enters (both sides order round_ and entered_ sequentially)
    for (int inside = entered_.load(); inside != 0; inside = entered_.load()) wait_for_change(entered_, inside);
}

// Own tasks from the front, then those of the others from the back.
void Pool::take_tasks(int thread) {
    for (size_t i = 0; i < parts_.size(); ++i) {
        const bool own = i == 0;
        std::atomic<uint64_t>& range = parts_[(static_cast<size_t>(thread) + i) % parts_.size()].range;
        uint64_t now = range.load();
        while (true) {
            const uint64_t begin = now & 0xffffffffu;
            const uint64_t end = now >> 32;
            if (begin >= end) break;
            const uint64_t left = own ? end << 32 | (begin + 1) : (end - 1) << 32 | begin;
            if (!range.compare_exchange_weak(now, left)) continue;
            function_(context_, static_cast<int>(own ? begin : end - 1));
            now = range.load();
        }
    }
}

void Pool::work(int thread) {
    int seen = 0;
    while (true) {
        wait_for_change(round_, seen);
        seen = round_.load();
        if (stop_) return;
        if (seen % 2 == 0) continue;
        entered_.fetch_add(1);
        if (round_.load() == seen) take_tasks(thread);
        entered_.fetch_sub(1);
        entered_.notify_all();
    }
}

} // namespace flash
