// SPDX-License-Identifier: Apache-2.0
/*
 * bench_relay [--seconds S] [--repetitions N] [--machine NAME]
 *
 * What the broker costs over a relay that does nothing: requests per second through
 * trackmill-broker and through a bare ROUTER/ROUTER relay, in the same run, by turns. Four cases:
 * 64 bytes and 1 MB, one request at a time and many. Prints CSV: machine, case, relay, median rate,
 * least, greatest, and the ratio of the medians (trackmill / bare).
 *
 * The payload moves twice over TCP on the loopback (client → relay → worker); the reply has 64
 * bytes. trackmill moves five messages for each request (REQUEST, DISPATCH, STARTED, RESULT with
 * CREDIT, ANSWER), the bare relay four.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/relay/peers.h"

enum { REPETITIONS_MAX = 99, CHILDREN_MAX = 8 };

static pid_t children[CHILDREN_MAX];
static int n_children;

static void kill_children(void) {
    while (n_children) {
        kill(children[--n_children], SIGKILL);
        waitpid(children[n_children], NULL, 0);
    }
}

/* Returns true in the child, which dies with its parent. */
static int in_child(void) {
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(EXIT_FAILURE);
    }
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        n_children = 0;
        return 1;
    }
    children[n_children++] = pid;
    return 0;
}

static void read_line(int fd, char *line, size_t room) {
    size_t got = 0;
    while (got + 1 < room && read(fd, line + got, 1) == 1 && line[got] != '\n')
        got++;
    line[got] = 0;
}

/* Where clients and workers of a relay connect. */
typedef struct {
    char clients[128], workers[128];
} relay_t;

static void start_bare(relay_t *relay) {
    int pipe_fds[2];
    char line[300];
    if (pipe(pipe_fds))
        exit(EXIT_FAILURE);
    if (in_child())
        bare_relay(pipe_fds[1]);
    read_line(pipe_fds[0], line, sizeof line);
    if (sscanf(line, "%127s %127s", relay->clients, relay->workers) != 2)
        exit(EXIT_FAILURE);
}

static void start_trackmill(relay_t *relay) {
    int pipe_fds[2];
    char line[600];
    if (pipe(pipe_fds))
        exit(EXIT_FAILURE);
    if (in_child()) {
        dup2(pipe_fds[1], STDOUT_FILENO);
        execl(TM_BROKER_PROGRAM, TM_BROKER_PROGRAM, "--client-endpoint", "tcp://127.0.0.1:*",
              "--worker-endpoint", "tcp://127.0.0.1:*", "--http", "off", "--io-threads", "1",
              "--log-level", "error", NULL);
        _exit(EXIT_FAILURE);
    }
    read_line(pipe_fds[0], line, sizeof line);
    if (sscanf(line, "ready clients=%127s workers=%127s", relay->clients, relay->workers) != 2)
        exit(EXIT_FAILURE);
}

/* One measurement in a process of its own. */
static double measure(int trackmill, const relay_t *relay, size_t bytes, uint32_t window,
                      double seconds) {
    int pipe_fds[2];
    double rate = 0;
    if (pipe(pipe_fds))
        exit(EXIT_FAILURE);
    if (in_child()) {
        rate = trackmill ? trackmill_client(relay->clients, bytes, window, seconds)
                         : bare_client(relay->clients, bytes, window, seconds);
        ssize_t written = write(pipe_fds[1], &rate, sizeof rate);
        _exit(written == sizeof rate ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    close(pipe_fds[1]);
    if (read(pipe_fds[0], &rate, sizeof rate) != sizeof rate) {
        fprintf(stderr, "bench_relay: a client failed\n");
        exit(EXIT_FAILURE);
    }
    close(pipe_fds[0]);
    waitpid(children[--n_children], NULL, 0);
    return rate;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void name_machine(char *name, size_t room) {
    char line[256], model[200] = "unknown CPU";
    FILE *info = fopen("/proc/cpuinfo", "r");
    while (info && fgets(line, sizeof line, info))
        if (sscanf(line, "model name : %199[^\n]", model) == 1)
            break;
    if (info)
        fclose(info);
    snprintf(name, room, "%s, %ld cores", model, sysconf(_SC_NPROCESSORS_ONLN));
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"seconds", required_argument, NULL, 's'},
                                            {"repetitions", required_argument, NULL, 'r'},
                                            {"machine", required_argument, NULL, 'm'},
                                            {0}};
    double seconds = 1.5;
    int repetitions = 5;
    char machine[256];
    name_machine(machine, sizeof machine);
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 's')
            seconds = strtod(optarg, NULL);
        else if (option == 'r')
            repetitions = atoi(optarg);
        else if (option == 'm')
            snprintf(machine, sizeof machine, "%s", optarg);
        else
            return EXIT_FAILURE;
    }
    if (repetitions < 1 || repetitions > REPETITIONS_MAX || !(seconds > 0)) {
        fprintf(stderr, "bench_relay: --repetitions 1 to %d, --seconds above 0\n", REPETITIONS_MAX);
        return EXIT_FAILURE;
    }
    atexit(kill_children);
    static const struct {
        const char *name;
        size_t bytes;
        uint32_t window;
    } cases[] = {{"64 B window 1", 64, 1},
                 {"64 B window 64", 64, 64},
                 {"1 MB window 1", 1u << 20, 1},
                 {"1 MB window 8", 1u << 20, 8}};
    printf("machine,case,relay,median_per_s,min_per_s,max_per_s,ratio\n");
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        relay_t relays[2];
        start_bare(&relays[0]);
        start_trackmill(&relays[1]);
        if (in_child())
            bare_worker(relays[0].workers);
        if (in_child())
            trackmill_worker(relays[1].workers, cases[c].window);
        double rates[2][REPETITIONS_MAX];
        // the first round only warms up
        for (int r = -1; r < repetitions; r++)
            for (int which = 0; which < 2; which++) {
                double rate = measure(which, &relays[which], cases[c].bytes, cases[c].window,
                                      r < 0 ? seconds / 4 : seconds);
                if (r >= 0)
                    rates[which][r] = rate;
            }
        kill_children();
        for (int which = 0; which < 2; which++)
            qsort(rates[which], (size_t)repetitions, sizeof rates[which][0], by_value);
        int middle = repetitions / 2;
        for (int which = 0; which < 2; which++)
            printf("\"%s\",%s,%s,%.0f,%.0f,%.0f,%.2f\n", machine, cases[c].name,
                   which ? "trackmill" : "bare", rates[which][middle], rates[which][0],
                   rates[which][repetitions - 1], rates[which][middle] / rates[0][middle]);
        fflush(stdout);
    }
    return EXIT_SUCCESS;
}
