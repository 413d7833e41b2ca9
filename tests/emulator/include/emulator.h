// SPDX-License-Identifier: Apache-2.0
/*
 * CUDA on a processor, for tests where there is no GPU: enough of the language and the runtime for
 * nn/cuda, none of its speed. The translator (translate.py) turns the few things that are no C++ into
 * calls of this.
 *
 * A block's threads are contexts of one host thread (makecontext) that run until they wait for others:
 * at a barrier, a shuffle, a matrix product. Blocks run one after the other, whatever the grid;
 * cooperative grids get two blocks if there is room for their threads, each of which runs until it waits
 * for the other. They share their __shared__ variables, all but the dynamic ones: what these hold must
 * not be wanted after a wait for the grid. So there are no data races to be found here, and what
 * depends on the order of threads shows one order of many. Launches wait for each other, and for the
 * end.
 */
#ifndef TM_EMULATOR_H
#define TM_EMULATOR_H

#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __grid_constant__
#define __device__
#define __host__
#define __noinline__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static

/* ---- vectors ---- */

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {
    }
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint2 make_uint2(uint32_t x, uint32_t y) {
    return {x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
    return {x, y, z, w};
}
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

/* ---- threads ---- */

namespace tm_emulator {

constexpr int WARP = 32;

/* What lanes of a warp show each other: 64 bytes each. Two turns, as some may show anew while others
 * still look. */
struct warp_t {
    alignas(16) char shown[2][WARP][64];
    int waiting, live;
    unsigned generation;
};

struct thread_t {
    dim3 thread_idx, block_idx, block_dim, grid_dim;
    int lane;
    warp_t *warp;
};

thread_t &self(void);
void *dynamic_shared(void);
void wait_for_warp(void);
void wait_for_block(void);
void wait_for_grid(void);
bool any_of_block(bool mine);

/* Every lane shows a value; read says what the caller makes of all of them. */
template <typename T, typename Read> auto exchange(const T &mine, Read read) {
    static_assert(sizeof(T) <= sizeof(warp_t::shown[0][0]), "room to show it");
    warp_t *warp = self().warp;
    const auto &shown = warp->shown[warp->generation % 2];
    memcpy((void *)shown[self().lane], &mine, sizeof mine);
    wait_for_warp();
    return read([&shown](int lane) {
        T value;
        memcpy(&value, shown[lane], sizeof value);
        return value;
    });
}

/* Every lane shows a value; the last one to do so makes what each gets. */
template <typename T, typename R, typename Make> R exchange_all(const T &mine, Make make) {
    static_assert(sizeof(T) <= sizeof(warp_t::shown[0][0]) && sizeof(R) <= sizeof(T), "room");
    warp_t *warp = self().warp;
    auto &shown = warp->shown[warp->generation % 2];
    const int lane = self().lane;
    memcpy(shown[lane], &mine, sizeof mine);
    if (warp->waiting + 1 == warp->live) {
        T all[WARP];
        R results[WARP];
        for (int i = 0; i < WARP; i++) {
            memcpy(&all[i], shown[i], sizeof all[i]);
        }
        make(all, results);
        for (int i = 0; i < WARP; i++) {
            memcpy(shown[i], &results[i], sizeof results[i]);
        }
    }
    wait_for_warp();
    R result;
    memcpy(&result, shown[lane], sizeof result);
    return result;
}

typedef struct stream_t stream_t;
void launch_now(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void(void)> &body);
void launch_cooperative_now(dim3 block, size_t shared_bytes, const std::function<void(void)> &body);
/* Runs the work, or notes it where the stream is capturing. */
void submit(stream_t *stream, std::function<void(void)> work);

/* The arguments are taken now, as a launch does. */
template <typename Kernel, typename... A>
void launch(dim3 grid, dim3 block, size_t shared_bytes, stream_t *stream, Kernel kernel,
            A &&...arguments) {
    std::tuple<std::decay_t<A>...> values(std::forward<A>(arguments)...);
    submit(stream,
           [=] { launch_now(grid, block, shared_bytes, [&] { std::apply(kernel, values); }); });
}

} // namespace tm_emulator

#define threadIdx (tm_emulator::self().thread_idx)
#define blockIdx (tm_emulator::self().block_idx)
#define blockDim (tm_emulator::self().block_dim)
#define gridDim (tm_emulator::self().grid_dim)

static inline void __syncthreads(void) {
    tm_emulator::wait_for_block();
}
static inline int __syncthreads_or(int mine) {
    return tm_emulator::any_of_block(mine != 0);
}
static inline void __syncwarp(unsigned = ~0u) {
    tm_emulator::wait_for_warp();
}
static inline void __threadfence(void) {
}

template <typename T> T __shfl_sync(unsigned, T mine, int from) {
    return tm_emulator::exchange(mine, [=](auto of) { return of(from & 31); });
}
template <typename T> T __shfl_xor_sync(unsigned, T mine, int mask) {
    int from = tm_emulator::self().lane ^ mask;
    return tm_emulator::exchange(mine, [=](auto of) { return of(from); });
}
static inline unsigned __ballot_sync(unsigned, int mine) {
    int live = tm_emulator::self().warp->live;
    return tm_emulator::exchange(mine != 0, [=](auto of) {
        unsigned bits = 0;
        for (int lane = 0; lane < live; lane++) {
            bits |= (unsigned)of(lane) << lane;
        }
        return bits;
    });
}
static inline int __any_sync(unsigned mask, int mine) {
    return __ballot_sync(mask, mine) != 0;
}
static inline unsigned __reduce_min_sync(unsigned, unsigned mine) {
    return tm_emulator::exchange(mine, [](auto of) {
        unsigned least = ~0u;
        for (int lane = 0; lane < tm_emulator::WARP; lane++) {
            least = of(lane) < least ? of(lane) : least;
        }
        return least;
    });
}
static inline unsigned __reduce_add_sync(unsigned, unsigned mine) {
    return tm_emulator::exchange(mine, [](auto of) {
        unsigned sum = 0;
        for (int lane = 0; lane < tm_emulator::WARP; lane++) {
            sum += of(lane);
        }
        return sum;
    });
}
static inline unsigned __reduce_max_sync(unsigned, unsigned mine) {
    return tm_emulator::exchange(mine, [](auto of) {
        unsigned most = 0;
        for (int lane = 0; lane < tm_emulator::WARP; lane++) {
            most = of(lane) > most ? of(lane) : most;
        }
        return most;
    });
}

/* ---- arithmetic ---- */

template <typename T, typename V> T atomicAdd(T *at, V value) {
    T old = *at;
    *at = old + (T)value;
    return old;
}
template <typename T, typename V> T atomicSub(T *at, V value) {
    T old = *at;
    *at = old - (T)value;
    return old;
}
template <typename T, typename V> T atomicMax(T *at, V value) {
    T old = *at;
    *at = old > (T)value ? old : (T)value;
    return old;
}
template <typename T, typename V> T atomicMin(T *at, V value) {
    T old = *at;
    *at = old < (T)value ? old : (T)value;
    return old;
}
template <typename T, typename V> T atomicOr(T *at, V value) {
    T old = *at;
    *at = old | (T)value;
    return old;
}
template <typename T> T atomicCAS(T *at, T expected, T value) {
    T old = *at;
    *at = old == expected ? value : old;
    return old;
}

static inline int __popc(unsigned v) {
    return __builtin_popcount(v);
}
static inline int __ffs(int v) {
    return __builtin_ffs(v);
}
static inline int __clz(int v) {
    return v ? __builtin_clz((unsigned)v) : 32;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31)) >> 32);
}
static inline uint32_t __float_as_uint(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline float __uint_as_float(uint32_t bits) {
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
#define __expf tm_emulator_expf /* the C library has a name like that */
static inline float __expf(float v) {
    return expf(v);
}
static inline float rsqrtf(float v) {
    return 1 / sqrtf(v);
}
template <typename T> T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T> T max(T a, T b) {
    return a < b ? b : a;
}

#endif
