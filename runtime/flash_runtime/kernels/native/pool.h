// Threads that share the loops of one engine. Knows nothing about what a task does.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include <sys/types.h>

namespace flash {

// run() hands out task numbers 0..count-1 to the caller and the workers and returns when all are done. Each thread
// begins with an equal, consecutive part and takes it in order, so that a task can request the memory of the next one;
// who has finished takes over half of what another has left. A worker that the scheduler keeps away is not
// waited for: only those that entered the loop are. Threads that wait spin for some microseconds, but not on the core
// that the awaited thread was last seen on: there they would keep it from running. Tasks must not throw.
class Pool {
public:
    explicit Pool(int threads); // the calling thread is one of them
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    template <class Task> void run(int count, const Task& task) {
        if (count <= 1 || workers_.empty()) {
            for (int i = 0; i < count; ++i) task(i);
            return;
        }
        run_shared(count, [](const void* context, int i) { (*static_cast<const Task*>(context))(i); }, &task);
    }

private:
    using Function = void (*)(const void* context, int index);

    void run_shared(int count, Function function, const void* context);
    void work(int thread);
    void take_tasks(int thread);
    bool take_over(int thread);
    bool shares_core(int thread) const; // with a thread that this one waits for

    Function function_ = nullptr;
    const void* context_ = nullptr;
    struct alignas(64) Part { // of one thread
        std::atomic<uint64_t> range{0}; // its tasks, begin and end in one word
        std::atomic<int> core{-1};      // where it ran when it last entered a loop
    };
    std::vector<Part> parts_;
    alignas(64) std::atomic<int> round_{0};   // odd while a loop is open; changes wake the workers
    alignas(64) std::atomic<int> entered_{0}; // workers inside the open loop
    std::atomic<bool> stop_{false};
    pid_t owner_;
    std::vector<std::thread> workers_;
};

} // namespace flash
