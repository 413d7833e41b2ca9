// SPDX-License-Identifier: Apache-2.0
#include "tests/chaos/proc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILDREN_MAX 1024
#define POLL_MS 5u

/* The children of this test program that may be alive. */
static pid_t children[CHILDREN_MAX];

static void die(const char *what) {
    fprintf(stderr, "test harness: %s: %s\n", what, strerror(errno));
    tm_procs_kill_all();
    exit(1);
}

uint64_t tm_test_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

void tm_test_sleep_ms(uint64_t ms) {
    struct timespec left = {(time_t)(ms / 1000u), (long)(ms % 1000u) * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

static void remember(pid_t old, pid_t new) {
    for (int i = 0; i < CHILDREN_MAX; i++) {
        if (children[i] == old) {
            children[i] = new;
            return;
        }
    }
    if (old == 0) {
        kill(new, SIGKILL);
        die("too many children");
    }
}

void tm_procs_kill_all(void) {
    for (int i = 0; i < CHILDREN_MAX; i++) {
        if (children[i] > 0) {
            kill(children[i], SIGKILL);
            waitpid(children[i], NULL, 0);
            children[i] = 0;
        }
    }
}

void tm_proc_start(tm_proc_t *proc, const char *const argv[]) {
    memset(proc, 0, sizeof *proc);
    proc->out = memfd_create("stdout", MFD_CLOEXEC);
    proc->err = memfd_create("stderr", MFD_CLOEXEC);
    if (proc->out < 0 || proc->err < 0) {
        die("memfd_create");
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        die("fork");
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(127); /* the parent died before the line above */
        }
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        dup2(proc->out, STDOUT_FILENO);
        dup2(proc->err, STDERR_FILENO);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        fprintf(stderr, "cannot run %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    proc->pid = pid;
    remember(0, pid);
}

void tm_proc_signal(const tm_proc_t *proc, int number) {
    if (proc->pid > 0) {
        kill(proc->pid, number);
    }
}

/* True: it has ended. */
static bool reap(tm_proc_t *proc, int flags) {
    if (proc->pid == 0) {
        return true;
    }
    int status;
    pid_t got = waitpid(proc->pid, &status, flags);
    if (got == 0 || (got < 0 && errno == EINTR)) {
        return false;
    }
    proc->code = got < 0 ? -SIGKILL : WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
    remember(proc->pid, 0);
    proc->pid = 0;
    return true;
}

bool tm_proc_wait(tm_proc_t *proc, uint64_t timeout_ms) {
    uint64_t limit_ms = tm_test_now_ms() + timeout_ms;
    while (!reap(proc, WNOHANG)) {
        if (tm_test_now_ms() >= limit_ms) {
            return false;
        }
        tm_test_sleep_ms(POLL_MS);
    }
    return true;
}

void tm_proc_kill(tm_proc_t *proc) {
    tm_proc_signal(proc, SIGKILL);
    while (!reap(proc, 0)) {
    }
}

char *tm_proc_text(const tm_proc_t *proc, bool err) {
    int fd = err ? proc->err : proc->out;
    struct stat info;
    if (fd <= 0 || fstat(fd, &info) != 0) {
        return strdup("");
    }
    size_t room = (size_t)info.st_size, used = 0;
    char *text = malloc(room + 1);
    if (text == NULL) {
        die("malloc");
    }
    while (used < room) {
        ssize_t got = pread(fd, text + used, room - used, (off_t)used);
        if (got <= 0) {
            break;
        }
        used += (size_t)got;
    }
    text[used] = '\0';
    return text;
}

static int count_in(const tm_proc_t *proc, bool err, const char *text) {
    char *all = tm_proc_text(proc, err);
    int n = 0;
    for (const char *at = all; (at = strstr(at, text)) != NULL; at += strlen(text)) {
        n++;
    }
    free(all);
    return n;
}

int tm_proc_count(const tm_proc_t *proc, const char *text) {
    return count_in(proc, false, text);
}

int tm_proc_count_err(const tm_proc_t *proc, const char *text) {
    return count_in(proc, true, text);
}

bool tm_proc_wait_for(tm_proc_t *proc, const char *text, int n, uint64_t timeout_ms) {
    uint64_t limit_ms = tm_test_now_ms() + timeout_ms;
    for (;;) {
        bool ended = reap(proc, WNOHANG);
        if (tm_proc_count(proc, text) >= n) {
            return true;
        }
        if (ended || tm_test_now_ms() >= limit_ms) {
            fprintf(stderr, "waited in vain for %d times \"%s\" on stdout\n", n, text);
            return false;
        }
        tm_test_sleep_ms(POLL_MS);
    }
}

void tm_proc_clear(tm_proc_t *proc, bool show) {
    tm_proc_kill(proc);
    if (proc->out > 0) {
        if (show) {
            char *out = tm_proc_text(proc, false), *err = tm_proc_text(proc, true);
            fprintf(stderr, "---- a child that ended with %d; stdout:\n%s---- stderr:\n%s----\n",
                    proc->code, out, err);
            free(out);
            free(err);
        }
        close(proc->out);
        close(proc->err);
    }
    memset(proc, 0, sizeof *proc);
}

int tm_test_free_port(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &bytes) != 0) {
        die("no free port");
    }
    close(fd);
    return ntohs(address.sin_port);
}
