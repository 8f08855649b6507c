/*
 * Preloaded into User-Mode Linux, this lets it run on processors with AMX.
 *
 * Its kernel keeps the first 2696 bytes of a process's extended state, and gives those back; where tiles make that
 * state larger, the host takes all of it or nothing (EFAULT), and the guest's first process dies. Guests do not use
 * tiles: what lies beyond is zero, and said to be unused.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { GET_SET = 0x4204, SET_SET = 0x4205, EXTENDED_STATE = 0x202 };
/* The header of the state (XSTATE_BV) says which of its parts are in use; those of the tiles are these. */
enum { HEADER = 512 };
static const uint64_t TILES = 3ull << 17;

typedef long (*ptrace_function)(int, pid_t, void *, void *);

long ptrace(int request, pid_t pid, void *address, void *data)
{
    static ptrace_function next;
    /* Static, for kernel stacks are small. One thread of the guest's kernel comes here at a time. */
    static unsigned char whole[1 << 16];
    static size_t size;
    if (!next)
        next = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
    if (request != SET_SET || address != (void *)EXTENDED_STATE)
        return next(request, pid, address, data);
    if (!size) {
        struct iovec all = {whole, sizeof whole};
        if (next(GET_SET, pid, address, &all))
            return -1;
        memset(whole, 0, sizeof whole);
        size = all.iov_len;
    }
    const struct iovec *kept = data;
    if (kept->iov_len >= size || kept->iov_len < HEADER + sizeof(uint64_t))
        return next(request, pid, address, data);
    memcpy(whole, kept->iov_base, kept->iov_len);
    uint64_t used;
    memcpy(&used, whole + HEADER, sizeof used);
    used &= ~TILES;
    memcpy(whole + HEADER, &used, sizeof used);
    struct iovec all = {whole, size};
    return next(request, pid, address, &all);
}
