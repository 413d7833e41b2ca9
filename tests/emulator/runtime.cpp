// SPDX-License-Identifier: Apache-2.0
#include <mutex>
#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "cuda_fp16.h"
#include "cuda_runtime.h"

namespace tm_emulator {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr size_t SHARED_BYTES = 232448; /* of an H200's block */
constexpr unsigned THREADS_MAX = 1024;
constexpr unsigned COOPERATIVE_BLOCKS = 2;

/* A thread of the block that runs. */
struct fiber_t {
    thread_t thread;
    ucontext_t context; /* for its first steps */
    jmp_buf here;       /* afterwards: unlike swapcontext it asks nothing of the kernel */
    char *stack;
    bool started, done;
    const unsigned *waits_for; /* a generation that has to move on from `generation` */
    unsigned generation;
};

static std::mutex one_launch; /* at a time: what is __shared__ is static */
static fiber_t fibers[THREADS_MAX];
static warp_t warps[THREADS_MAX / WARP];
static fiber_t *current;
static jmp_buf scheduler;
static const std::function<void(void)> *running;

/* What the threads of a block, or of a cooperative grid, wait at. */
struct barrier_t {
    unsigned generation, waiting, live;
    bool any, any_result;
};
static barrier_t block_barrier[COOPERATIVE_BLOCKS];
static barrier_t grid_barrier; /* nobody lives: the grid is not cooperative */
alignas(256) static char shared_memory[COOPERATIVE_BLOCKS][SHARED_BYTES]; /* dynamic */

thread_t &self(void) {
    return current->thread;
}

static void wait(const unsigned *generation) {
    fiber_t *me = current;
    me->waits_for = generation;
    me->generation = *generation;
    if (_setjmp(me->here) == 0) {
        _longjmp(scheduler, 1);
    }
}

static void release(barrier_t *barrier) {
    barrier->waiting = 0;
    barrier->any_result = barrier->any;
    barrier->any = false;
    barrier->generation++;
}

static void wait_at(barrier_t *barrier) {
    if (++barrier->waiting == barrier->live) {
        release(barrier);
        return;
    }
    wait(&barrier->generation);
}

/* A thread ends: those that wait wait for one less. */
static void leave(barrier_t *barrier) {
    barrier->live--;
    if (barrier->live > 0 && barrier->waiting == barrier->live) {
        release(barrier);
    }
}

/* Of the running thread's block. Only cooperative grids have more than one at a time. */
static unsigned own_place(void) {
    return grid_barrier.live > 0 ? self().block_idx.x : 0;
}

static barrier_t *own_block(void) {
    return &block_barrier[own_place()];
}

void *dynamic_shared(void) {
    return shared_memory[own_place()];
}

void wait_for_warp(void) {
    warp_t *warp = self().warp;
    if (++warp->waiting == warp->live) {
        warp->waiting = 0;
        warp->generation++;
        return;
    }
    wait(&warp->generation);
}

void wait_for_block(void) {
    wait_at(own_block());
}

void wait_for_grid(void) {
    wait_at(&grid_barrier);
}

bool any_of_block(bool mine) {
    barrier_t *block = own_block();
    block->any = block->any || mine;
    wait_at(block);
    return block->any_result;
}

static void run_fiber(void) {
    (*running)();
    fiber_t *me = current;
    me->done = true;
    warp_t *warp = me->thread.warp;
    warp->live--;
    if (warp->live > 0 && warp->waiting == warp->live) {
        warp->waiting = 0;
        warp->generation++;
    }
    leave(own_block());
    if (grid_barrier.live > 0) {
        leave(&grid_barrier);
    }
    _longjmp(scheduler, 1);
}

/* Lets a thread run until it waits or ends. */
static void resume(fiber_t *f) {
    current = f;
    f->waits_for = NULL;
    if (_setjmp(scheduler) != 0) {
        return;
    }
    if (f->started) {
        _longjmp(f->here, 1);
    }
    f->started = true;
    setcontext(&f->context);
}

/* warp_of_block: the first of its warps */
static void start(fiber_t *f, unsigned i, warp_t *warp_of_block, dim3 block_idx, dim3 block,
                  dim3 grid) {
    if (!f->stack) {
        f->stack = (char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED) {
            abort();
        }
    }
    f->thread.thread_idx = dim3(i % block.x, i / block.x);
    f->thread.block_idx = block_idx;
    f->thread.block_dim = block;
    f->thread.grid_dim = grid;
    f->thread.lane = (int)(i % WARP);
    f->thread.warp = warp_of_block + i / WARP;
    f->started = f->done = false;
    f->waits_for = NULL;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = NULL;
    makecontext(&f->context, run_fiber, 0);
}

/* Makes a block ready to run, in one of the places for blocks. */
static void prepare_block(unsigned place, dim3 block_idx, dim3 block, dim3 grid,
                          size_t shared_bytes) {
    const unsigned n = block.x * block.y;
    /* NaNs: what is read must have been written */
    memset(shared_memory[place], 0xff, shared_bytes);
    warp_t *own = warps + place * (n / WARP);
    block_barrier[place] = {0, 0, n, false, false};
    for (unsigned w = 0; w * WARP < n; w++) {
        own[w].waiting = 0;
        own[w].live = (int)(n - w * WARP < WARP ? n - w * WARP : WARP);
    }
    for (unsigned i = 0; i < n; i++) {
        start(&fibers[place * n + i], i, own, block_idx, block, grid);
    }
}

/* Runs a block until its threads are done or wait for those of other blocks; whether any of them moved. */
static bool run_block(unsigned place, unsigned n) {
    bool moved = false;
    for (bool more = true; more;) {
        more = false;
        for (unsigned i = 0; i < n; i++) {
            fiber_t *f = &fibers[place * n + i];
            if (f->done || (f->waits_for && *f->waits_for == f->generation)) {
                continue;
            }
            moved = more = true;
            resume(f);
        }
    }
    return moved;
}

static void stuck(const char *who) {
    fprintf(stderr, "emulator: threads of a %s wait for each other for ever\n", who);
    abort();
}

static void check_block(unsigned n, size_t shared_bytes) {
    if (n > THREADS_MAX || n == 0 || shared_bytes > SHARED_BYTES) {
        fprintf(stderr, "emulator: no block has %u threads and %zu bytes\n", n, shared_bytes);
        abort();
    }
}

void launch_now(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void(void)> &body) {
    std::lock_guard<std::mutex> lock(one_launch);
    const unsigned n = block.x * block.y;
    check_block(n, shared_bytes);
    running = &body;
    for (unsigned y = 0; y < grid.y; y++) {
        for (unsigned x = 0; x < grid.x; x++) {
            prepare_block(0, dim3(x, y), block, grid, shared_bytes);
            run_block(0, n);
            if (block_barrier[0].live > 0) {
                stuck("block");
            }
        }
    }
}

void launch_cooperative_now(dim3 block, size_t shared_bytes,
                            const std::function<void(void)> &body) {
    std::lock_guard<std::mutex> lock(one_launch);
    const unsigned n = block.x * block.y;
    const dim3 grid(n * COOPERATIVE_BLOCKS <= THREADS_MAX ? COOPERATIVE_BLOCKS : 1);
    check_block(n, shared_bytes);
    running = &body;
    grid_barrier = {0, 0, n * grid.x, false, false};
    for (unsigned b = 0; b < grid.x; b++) {
        prepare_block(b, dim3(b), block, grid, shared_bytes);
    }
    while (grid_barrier.live > 0) {
        bool moved = false;
        for (unsigned b = 0; b < grid.x; b++) {
            moved = run_block(b, n) || moved;
        }
        if (!moved) {
            stuck("grid");
        }
    }
}

struct stream_t {
    bool capturing;
    std::vector<std::function<void(void)>> work;
};

void submit(stream_t *stream, std::function<void(void)> work) {
    if (stream && stream->capturing) { /* NULL: the default stream */
        stream->work.push_back(std::move(work));
    } else {
        work();
    }
}

} // namespace tm_emulator

using tm_emulator::stream_t;

const float *tm_emulator_half_values(void) {
    static const std::vector<float> values = [] {
        std::vector<float> all(1 << 16);
        for (size_t bits = 0; bits < all.size(); bits++) {
            all[bits] = tm_emulator_half_value((uint16_t)bits);
        }
        return all;
    }();
    return values.data();
}

struct tm_emulator_graph {
    std::vector<std::function<void(void)>> work;
};

struct tm_emulator_event {
    struct timespec at;
};

cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t) {
    return "an emulated error";
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor         ? 9
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? (int)tm_emulator::SHARED_BYTES
                                                                    : 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int) {
    snprintf(properties->name, sizeof properties->name, "emulated GPU");
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = (size_t)1 << 40;
    return cudaSuccess;
}

/* Not zeroed: fresh memory of the GPU holds anything. */
cudaError_t tm_emulator_malloc(void **out, size_t bytes) {
    const size_t alignment = 256;
    *out = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *data) {
    free(data);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *data) {
    return cudaFree(data);
}

cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    memset(to, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int) {
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t stream) {
    tm_emulator::submit(stream, [=] { memcpy(to, from, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t bytes, size_t rows, int, cudaStream_t stream) {
    tm_emulator::submit(stream, [=] {
        for (size_t i = 0; i < rows; i++) {
            memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, bytes);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    tm_emulator::submit(stream, [=] { memset(to, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int value, size_t bytes, size_t rows,
                              cudaStream_t stream) {
    tm_emulator::submit(stream, [=] {
        for (size_t i = 0; i < rows; i++) {
            memset((char *)to + i * pitch, value, bytes);
        }
    });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    *out = new stream_t();
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return cudaStreamCreateWithFlags(out, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream->capturing = true;
    stream->work.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    stream->capturing = false;
    *graph = new tm_emulator_graph{std::move(stream->work)};
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    *out = new tm_emulator_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    return cudaGraphDestroy(graph);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
    for (const auto &work : graph->work) {
        work();
    }
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    *out = new tm_emulator_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    tm_emulator::submit(stream, [=] { clock_gettime(CLOCK_MONOTONIC, &event->at); });
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = (float)((double)(to->at.tv_sec - from->at.tv_sec) * 1e3 +
                  (double)(to->at.tv_nsec - from->at.tv_nsec) / 1e6);
    return cudaSuccess;
}
