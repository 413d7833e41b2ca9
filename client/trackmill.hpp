// SPDX-License-Identifier: Apache-2.0
/*
 * libtrackmill for C++20: the functions of trackmill.h with owners, spans and results.
 *
 *     trackmill::Client client = trackmill::Client::open("tcp://broker-a:5570,tcp://broker-b:5570").value();
 *     trackmill::Event event;
 *     event.add("x", x); event.add("y", y); event.add("z", z);   // spans of floats, borrowed
 *     trackmill::Answer answer = client.find(event).value();
 *     for (trackmill::Track track : answer.tracks())
 *         use(track.points, track.score);                          // rows of the event
 *
 * Header only; link libtrackmill.
 *
 * Errors: whatever can fail returns a Result, which holds the value or an Error (a status and one line
 * of text). Exceptions are the caller's choice: `value()` throws a trackmill::Exception (and ends the
 * program where exceptions are switched off), `if (result)` and `result.error()` never do. Nothing is
 * thrown across the C library; std::bad_alloc may come from the standard library's own strings.
 *
 * Ownership: Client and Answer own what they stand for and can be moved, not copied; one that was moved
 * from may only be destroyed or assigned to. An Event borrows the arrays of its columns until it was
 * submitted. Spans and views of an Answer live as long as it does.
 *
 * Threads: as in trackmill.h: a Client may be used from several, the others belong to one at a time.
 */
#ifndef TRACKMILL_HPP
#define TRACKMILL_HPP

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "trackmill.h"

namespace trackmill {

/* ---- results ---- */

using Status = tm_status_t;

struct Error {
    Status status = TM_OK;
    std::string text; /* one line: what is wrong, where, how to mend it */

    /* A short name: "deadline", "no_broker". */
    std::string_view name() const {
        return tm_status_name(status);
    }
    /* Whether the same request may succeed later. */
    bool retryable() const {
        return tm_status_retryable(status);
    }
};

class Exception : public std::runtime_error {
  public:
    explicit Exception(const Error &error) : std::runtime_error(error.text), status_(error.status) {
    }
    Status status() const noexcept {
        return status_;
    }

  private:
    Status status_;
};

namespace detail {

[[noreturn]] inline void raise(const Error &error) {
#if defined(__cpp_exceptions)
    throw Exception(error);
#else
    static_cast<void>(error);
    std::abort();
#endif
}

inline Error make_error(Status status, const tm_error_t &error) {
    return {status, error.text};
}

/* Milliseconds as the C library takes them, at most what an int holds. */
inline int clamp_ms(std::chrono::milliseconds time) {
    constexpr std::chrono::milliseconds most{INT32_MAX};
    return static_cast<int>(time < time.zero() ? -1 : time > most ? most.count() : time.count());
}

} // namespace detail

/* A value, or why there is none. */
template <class T> class [[nodiscard]] Result {
  public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {
    }
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {
    }

    explicit operator bool() const noexcept {
        return state_.index() == 0;
    }
    /* Only of a failure. */
    const Error &error() const {
        return *std::get_if<1>(&state_);
    }
    /* The value, or a trackmill::Exception. */
    T &value() & {
        check();
        return *std::get_if<0>(&state_);
    }
    const T &value() const & {
        check();
        return *std::get_if<0>(&state_);
    }
    T value() && {
        check();
        return std::move(*std::get_if<0>(&state_));
    }
    /* Only of a success. */
    T &operator*() & {
        return *std::get_if<0>(&state_);
    }
    const T &operator*() const & {
        return *std::get_if<0>(&state_);
    }
    T *operator->() {
        return std::get_if<0>(&state_);
    }
    const T *operator->() const {
        return std::get_if<0>(&state_);
    }

  private:
    void check() const {
        if (state_.index() != 0) {
            detail::raise(error());
        }
    }

    std::variant<T, Error> state_;
};

template <> class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {
    }

    explicit operator bool() const noexcept {
        return !error_;
    }
    const Error &error() const {
        return *error_;
    }
    void value() const {
        if (error_) {
            detail::raise(*error_);
        }
    }

  private:
    std::optional<Error> error_;
};

/* ---- events ---- */

/* What a column may consist of. */
template <class T>
concept Element = (std::integral<T> && !std::same_as<T, bool>) || std::same_as<T, float> ||
                  std::same_as<T, double>;

template <Element T> constexpr tm_type_t element_type() {
    static_assert(sizeof(T) <= 8 && sizeof(float) == 4 && sizeof(double) == 8);
    if constexpr (std::same_as<T, float>) {
        return TM_F32;
    } else if constexpr (std::same_as<T, double>) {
        return TM_F64;
    } else if constexpr (std::signed_integral<T>) {
        return sizeof(T) == 1 ? TM_I8 : sizeof(T) == 2 ? TM_I16 : sizeof(T) == 4 ? TM_I32 : TM_I64;
    } else {
        return sizeof(T) == 1 ? TM_U8 : sizeof(T) == 2 ? TM_U16 : sizeof(T) == 4 ? TM_U32 : TM_U64;
    }
}

/* The space points of one event as named columns; see wire/columns.h for their names and units. */
class Event {
  public:
    /* Borrows the elements until the event was submitted. Fails with TM_E_ARGUMENT: a bad name, one that
     * is there already, too many columns. */
    template <Element T> Result<void> add(const char *name, std::span<const T> elements) {
        return add(name, element_type<T>(), elements.size(), elements.data());
    }
    template <Element T> Result<void> add(const char *name, const std::vector<T> &elements) {
        return add(name, std::span<const T>(elements));
    }
    /* The elements would be gone before the event is submitted. */
    template <Element T> Result<void> add(const char *name, std::vector<T> &&elements) = delete;
    /* 16-bit floats, as bits. */
    Result<void> add_f16(const char *name, std::span<const std::uint16_t> bits) {
        return add(name, TM_F16, bits.size(), bits.data());
    }
    Result<void> add(const char *name, tm_type_t type, std::uint64_t n, const void *elements) {
        tm_error_t error;
        Status status = tm_columns_add(&columns_, name, type, n, elements, &error);
        return status ? Result<void>(detail::make_error(status, error)) : Result<void>();
    }

    /* Space points; 0 without columns. */
    std::uint64_t size() const {
        return columns_.count ? columns_.column[0].n : 0;
    }
    /* What holds for every event; submit checks it, too. */
    Result<void> check() const {
        tm_error_t error;
        std::uint32_t n = 0;
        Status status = tm_event_check(&columns_, &n, &error);
        return status ? Result<void>(detail::make_error(status, error)) : Result<void>();
    }
    const tm_columns_t &columns() const {
        return columns_;
    }

  private:
    tm_columns_t columns_{};
};

/* ---- answers ---- */

/* Start values for a fit, at the point of closest approach to the z axis. */
struct Start {
    float pt;       /* GeV */
    float phi, eta; /* of the momentum; radians */
    float d0, z0;   /* mm */
    int charge;     /* e: -1 or 1 */
};

struct Track {
    std::span<const std::uint32_t> points; /* rows of the event, as the back end ordered them */
    float score;                           /* in [0, 1] */
    std::optional<Start> start;            /* of a back end that makes them, where it could */
};

/* Track candidates, ordered by their least row: a view. */
class Tracks {
  public:
    class iterator {
      public:
        using value_type = Track;
        using difference_type = std::ptrdiff_t;

        iterator() = default;
        iterator(const tm_tracks_t *tracks, std::uint32_t at) : tracks_(tracks), at_(at) {
        }
        Track operator*() const {
            return Tracks(*tracks_)[at_];
        }
        iterator &operator++() {
            ++at_;
            return *this;
        }
        iterator operator++(int) {
            iterator old = *this;
            ++at_;
            return old;
        }
        bool operator==(const iterator &) const = default;

      private:
        const tm_tracks_t *tracks_ = nullptr;
        std::uint32_t at_ = 0;
    };

    explicit Tracks(const tm_tracks_t &tracks) : tracks_(&tracks) {
    }
    std::uint32_t size() const {
        return tracks_->n_tracks;
    }
    bool empty() const {
        return size() == 0;
    }
    Track operator[](std::uint32_t i) const {
        return {
            {tracks_->indices + tracks_->offsets[i], tracks_->indices + tracks_->offsets[i + 1]},
            tracks_->scores[i],
            start(i)};
    }
    iterator begin() const {
        return {tracks_, 0};
    }
    iterator end() const {
        return {tracks_, size()};
    }
    /* Space points of the event. */
    std::uint32_t n_points() const {
        return tracks_->n_points;
    }
    /* For each space point its track, -1 for none. */
    std::vector<std::int32_t> labels() const {
        std::vector<std::int32_t> out(n_points(), -1);
        for (std::uint32_t t = 0; t < size(); t++) {
            for (std::uint32_t point : (*this)[t].points) {
                out[point] = static_cast<std::int32_t>(t);
            }
        }
        return out;
    }

  private:
    std::optional<Start> start(std::uint32_t i) const {
        const tm_starts_t &s = tracks_->starts;
        if (!s.charge || s.charge[i] == 0) {
            return std::nullopt;
        }
        return Start{s.pt[i], s.phi[i], s.eta[i], s.d0[i], s.z0[i], s.charge[i]};
    }

    const tm_tracks_t *tracks_;
};

struct Stage {
    std::string_view name;
    std::chrono::microseconds time;
};

/* What became of one request: tracks, or an error. */
class Answer {
  public:
    /* Takes the answer over; not null. */
    explicit Answer(tm_answer_t *answer) : answer_(answer) {
    }

    std::uint64_t id() const {
        return answer_->id;
    }
    /* Whether there are tracks; none at all are a result, too. */
    bool ok() const {
        return answer_->status == TM_OK;
    }
    Error error() const {
        return detail::make_error(answer_->status, answer_->error);
    }
    /* Empty unless ok(). */
    Tracks tracks() const {
        return Tracks(answer_->tracks);
    }
    std::string_view model() const { /* "name@version" */
        return answer_->model;
    }
    std::string_view worker() const {
        return answer_->worker;
    }
    std::span<const std::uint8_t, TM_HASH_BYTES> hash() const { /* SHA-256 of the model file */
        return answer_->hash;
    }
    std::uint32_t attempt() const { /* 1: the first worker answered */
        return answer_->attempt;
    }
    std::chrono::microseconds queue_time() const { /* in the broker */
        return us(answer_->queue_us);
    }
    std::chrono::microseconds service_time() const { /* dispatch to result, seen by the broker */
        return us(answer_->service_us);
    }
    std::chrono::microseconds total_time() const { /* submit to answer, seen by the client */
        return us(answer_->total_us);
    }
    std::vector<Stage> stages() const { /* in the worker */
        std::vector<Stage> out;
        for (std::uint32_t i = 0; i < answer_->timings.count; i++) {
            out.push_back({answer_->timings.stage[i].name, us(answer_->timings.stage[i].us)});
        }
        return out;
    }
    const tm_answer_t &get() const {
        return *answer_;
    }

  private:
    static std::chrono::microseconds us(std::uint64_t n) {
        return std::chrono::microseconds(static_cast<std::int64_t>(n));
    }
    struct Free {
        void operator()(tm_answer_t *answer) const {
            tm_answer_destroy(&answer);
        }
    };

    std::unique_ptr<tm_answer_t, Free> answer_;
};

/* ---- clients ---- */

inline constexpr std::chrono::milliseconds forever{-1}; /* as a timeout */

struct ClientOptions {
    std::string name;                  /* shown in the broker's logs; "": host:pid */
    std::chrono::milliseconds hello{}; /* how long a broker may take to answer; 0: the default */
    std::uint64_t max_bytes = 0;       /* events held at most; 0: 1 GiB */
};

struct RequestOptions {
    std::string model;               /* "name", "name@version"; "": the only model there is */
    std::chrono::milliseconds ttl{}; /* deadline from now; 0: the default */
    std::uint32_t priority = TM_PRIORITY_DEFAULT; /* 0 … 2, lower first */
};

class Client {
  public:
    /* brokers: endpoints of libzmq, separated by commas. Does not wait for a connection. */
    static Result<Client> open(const std::string &brokers, const ClientOptions &options = {}) {
        tm_client_options_t c{};
        tm_client_t *client = nullptr;
        tm_error_t error;
        c.name = options.name.empty() ? nullptr : options.name.c_str();
        c.hello_ms = static_cast<std::uint32_t>(
            detail::clamp_ms(std::max(options.hello, options.hello.zero())));
        c.max_bytes = options.max_bytes;
        Status status = tm_client_new(brokers.c_str(), &c, &client, &error);
        if (status) {
            return detail::make_error(status, error);
        }
        return Client(client);
    }

    /* Copies the event and queues it; the id names its answer. TM_E_BUSY: take some answers first. */
    Result<std::uint64_t> submit(const Event &event, const RequestOptions &options = {}) {
        tm_request_options_t c{};
        std::uint64_t id = 0;
        tm_error_t error;
        c.model = options.model.empty() ? nullptr : options.model.c_str();
        c.ttl_ms =
            static_cast<std::uint32_t>(detail::clamp_ms(std::max(options.ttl, options.ttl.zero())));
        c.priority = options.priority;
        Status status = tm_client_submit(client_.get(), &event.columns(), &c, &id, &error);
        if (status) {
            return detail::make_error(status, error);
        }
        return id;
    }

    /* The next answer of any request; empty when the time ran out. TM_E_NOT_FOUND: nothing is in
     * flight. */
    Result<std::optional<Answer>> poll(std::chrono::milliseconds timeout = forever) {
        tm_answer_t *answer = nullptr;
        tm_error_t error;
        Status status = tm_client_poll(client_.get(), detail::clamp_ms(timeout), &answer, &error);
        return taken(status, answer, error);
    }
    /* The answer of that request; empty when the time ran out. */
    Result<std::optional<Answer>> wait(std::uint64_t id,
                                       std::chrono::milliseconds timeout = forever) {
        tm_answer_t *answer = nullptr;
        tm_error_t error;
        Status status =
            tm_client_wait(client_.get(), id, detail::clamp_ms(timeout), &answer, &error);
        return taken(status, answer, error);
    }
    /* Submits and waits; an answer without tracks is an error. */
    Result<Answer> find(const Event &event, const RequestOptions &options = {}) {
        Result<std::uint64_t> id = submit(event, options);
        if (!id) {
            return id.error();
        }
        Result<std::optional<Answer>> answer = wait(*id);
        if (!answer) {
            return answer.error();
        }
        if (!*answer) { /* cannot be: there was no time to run out */
            return Error{TM_E_UNEXPECTED, "no answer although there was no timeout"};
        }
        if (!(*answer)->ok()) {
            return (*answer)->error();
        }
        return std::move(**answer);
    }
    Result<void> cancel(std::uint64_t id) {
        tm_error_t error;
        Status status = tm_client_cancel(client_.get(), id, &error);
        return status ? Result<void>(detail::make_error(status, error)) : Result<void>();
    }

    /* Readable while answers are waiting to be polled. Do not read it. */
    int fd() const {
        return tm_client_fd(client_.get());
    }
    /* Requests without an answer taken. */
    std::uint32_t in_flight() const {
        return tm_client_in_flight(client_.get());
    }
    tm_client_t *get() const {
        return client_.get();
    }

  private:
    explicit Client(tm_client_t *client) : client_(client) {
    }
    static Result<std::optional<Answer>> taken(Status status, tm_answer_t *answer,
                                               const tm_error_t &error) {
        if (status) {
            return detail::make_error(status, error);
        }
        return answer ? std::optional<Answer>(Answer(answer)) : std::nullopt;
    }
    struct Destroy {
        void operator()(tm_client_t *client) const {
            tm_client_destroy(&client);
        }
    };

    std::unique_ptr<tm_client_t, Destroy> client_;
};

/* What one broker says of itself; needs no Client. */
inline Result<tm_broker_report_t> broker_status(const std::string &broker,
                                                std::chrono::milliseconds timeout) {
    tm_broker_report_t report{};
    tm_error_t error;
    Status status = tm_broker_status(
        broker.c_str(),
        static_cast<std::uint32_t>(detail::clamp_ms(std::max(timeout, timeout.zero()))), &report,
        &error);
    if (status) {
        return detail::make_error(status, error);
    }
    return report;
}

} // namespace trackmill
#endif
