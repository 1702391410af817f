#include "pool.h"

#include <chrono>

#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

namespace flash {
namespace {

// Longer than the gaps inside a step, short enough not to burn a throttled CPU quota. A time and not a number of pauses:
// a pause is 40 cycles on one CPU and 140 on another.
constexpr std::chrono::microseconds kSpin{25};
constexpr int kPausesPerLook = 16;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Tasks begin..end-1 in one word.
constexpr uint64_t range_of(uint64_t begin, uint64_t end) { return end << 32 | begin; }
constexpr uint64_t begin_of(uint64_t range) { return range & 0xffffffffu; }
constexpr uint64_t end_of(uint64_t range) { return range >> 32; }

// The core this thread runs on; -1 where the system does not tell.
int current_core() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

// Returns once the value differs from `old`: spins first if asked to, then sleeps in the kernel.
void wait_for_change(const std::atomic<int>& value, int old, bool spin) {
    if (spin) {
        const auto end = std::chrono::steady_clock::now() + kSpin;
        do {
            for (int i = 0; i < kPausesPerLook; ++i) {
                if (value.load(std::memory_order_acquire) != old) return;
                pause_briefly();
            }
        } while (std::chrono::steady_clock::now() < end);
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
        const uint64_t range = range_of(tasks * i / parts_.size(), tasks * (i + 1) / parts_.size());
        parts_[i].range.store(range, std::memory_order_relaxed);
    }
    parts_[0].core.store(current_core(), std::memory_order_relaxed);
    round_.fetch_add(1); // open
    round_.notify_all();
    take_tasks(0);
    round_.fetch_add(1); // closed: from here on nobody enters (both sides order round_ and entered_ sequentially)
    for (int inside = entered_.load(); inside != 0; inside = entered_.load()) {
        wait_for_change(entered_, inside, !shares_core(0));
    }
}

bool Pool::shares_core(int thread) const {
    const int own = current_core();
    if (own < 0) return false;
    const size_t begin = thread == 0 ? 1 : 0; // workers wait for the caller alone
    const size_t end = thread == 0 ? parts_.size() : 1;
    for (size_t i = begin; i < end; ++i) {
        if (parts_[i].core.load(std::memory_order_relaxed) == own) return true;
    }
    return false;
}

// Own tasks from the front, then the later half of another's, which become the own: so tasks keep following each other,
// and whoever does all of them because the others do not get to run has hardly more to do than alone.
void Pool::take_tasks(int thread) {
    std::atomic<uint64_t>& own = parts_[static_cast<size_t>(thread)].range;
    do {
        uint64_t now = own.load();
        while (begin_of(now) < end_of(now)) {
            const int task = static_cast<int>(begin_of(now));
            if (!own.compare_exchange_weak(now, range_of(begin_of(now) + 1, end_of(now)))) continue;
            function_(context_, task);
            now = own.load();
        }
    } while (take_over(thread));
}

// True if there was a part left to share; what is on its way from one part to another is done by whoever moves it.
bool Pool::take_over(int thread) {
    for (size_t i = 1; i < parts_.size(); ++i) {
        std::atomic<uint64_t>& other = parts_[(static_cast<size_t>(thread) + i) % parts_.size()].range;
        uint64_t now = other.load();
        while (begin_of(now) < end_of(now)) {
            const uint64_t middle = begin_of(now) + (end_of(now) - begin_of(now)) / 2;
            if (!other.compare_exchange_weak(now, range_of(begin_of(now), middle))) continue;
            parts_[static_cast<size_t>(thread)].range.store(range_of(middle, end_of(now)));
            return true;
        }
    }
    return false;
}

void Pool::work(int thread) {
    int seen = 0;
    while (true) {
        wait_for_change(round_, seen, !shares_core(thread));
        seen = round_.load();
        if (stop_) return;
        if (seen % 2 == 0) continue;
        parts_[static_cast<size_t>(thread)].core.store(current_core(), std::memory_order_relaxed);
        entered_.fetch_add(1);
        if (round_.load() == seen) take_tasks(thread);
        entered_.fetch_sub(1);
        entered_.notify_all();
    }
}

} // namespace flash
