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
// who has finished takes over tasks from the ends of the others' parts. A worker that the scheduler keeps away is not
// waited for: only those that entered the loop are. Tasks must not throw.
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

    Function function_ = nullptr;
    const void* context_ = nullptr;
    struct alignas(64) Part { // tasks begin..end-1 of one thread, both in one word: (end << 32) + begin
        std::atomic<uint64_t> range{0};
    };
    std::vector<Part> parts_;
    alignas(64) std::atomic<int> round_{0};   // odd while a loop is open; changes wake the workers
    alignas(64) std::atomic<int> entered_{0}; // workers inside the open loop
    std::atomic<bool> stop_{false};
    pid_t owner_;
    std::vector<std::thread> workers_;
};

} // namespace flash
