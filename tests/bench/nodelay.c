/*
 * Preloaded into a server, this turns Nagle's algorithm off on each TCP connection that it accepts.
 *
 * QEMU's NBD server (7.2) leaves it on; with more than one request in flight its answers then wait for the
 * client's delayed acknowledgement, some 40 ms. Beating that would prove nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

typedef int (*accept4_function)(int, struct sockaddr *, socklen_t *, int);

int accept4(int listener, struct sockaddr *address, socklen_t *length, int flags)
{
    static accept4_function next;
    if (!next)
        next = (accept4_function)dlsym(RTLD_NEXT, "accept4");
    int connection = next(listener, address, length, flags);
    if (connection >= 0) {
        int on = 1;
        /* Fails on Unix sockets, which need no help. */
        (void)setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    return connection;
}

int accept(int listener, struct sockaddr *address, socklen_t *length)
{
    return accept4(listener, address, length, 0);
}
