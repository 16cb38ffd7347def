/* The physical reference: one process, epoll, and one write(2) for each message and socket.
 *
 * What one sends, all receive. No Redis, no fairness, no limits: it does what the kernel makes everybody do and nothing
 * else, so it is no server to use. It knows one handshake, that of the load client, whose key never changes, and frames
 * of clients that have a 16-bit length and come whole or in pieces.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FDS = 65536, HEAD = 8, BUFFER = 256 * 1024, EVENTS = 1024 };

static const char ANSWER[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct connection {
    /* Where it stands among `members`, -1 before the handshake. */
    int index;
    /* What has come and is not yet a whole request or frame. */
    unsigned char *pending;
    size_t size;
};

static struct connection connections[MAX_FDS];
static int members[MAX_FDS];
static int count;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void leave(int fd) {
    struct connection *it = &connections[fd];
    if (it->index >= 0) {
        int last = members[--count];
        members[it->index] = last;
        connections[last].index = it->index;
    }
    free(it->pending);
    it->pending = NULL;
    it->size = 0;
    close(fd);
}

/* All of it, as a loop on blocking sockets would: a client that does not read stops everybody. */
static void write_all(int fd, const unsigned char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = write(fd, data, size);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return;
        data += sent;
        size -= (size_t)sent;
    }
}

static void broadcast(unsigned char *masked, size_t length) {
    static unsigned char frame[4 + 65535];
    const unsigned char *mask = masked + 4, *payload = masked + HEAD;
    frame[0] = 0x81;
    frame[1] = 126;
    frame[2] = (unsigned char)(length >> 8);
    frame[3] = (unsigned char)length;
    for (size_t at = 0; at < length; at++) frame[4 + at] = payload[at] ^ mask[at & 3];
    for (int member = 0; member < count; member++) write_all(members[member], frame, 4 + length);
}

/* How many bytes of `data` were a whole request or frame; 0 if none is; -1 to end the connection. */
static ssize_t take(int fd, unsigned char *data, size_t size) {
    struct connection *it = &connections[fd];
    if (it->index < 0) {
        unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
        if (end == NULL) return 0;
        write_all(fd, (const unsigned char *)ANSWER, sizeof ANSWER - 1);
        it->index = count;
        members[count++] = fd;
        return end + 4 - data;
    }
    if (size < 2) return 0;
    if (data[0] != 0x81 || data[1] != (0x80 | 126)) return -1;
    if (size < HEAD) return 0;
    size_t length = (size_t)data[2] << 8 | data[3];
    if (size < HEAD + length) return 0;
    broadcast(data, length);
    return (ssize_t)(HEAD + length);
}

static void receive(int fd) {
    static unsigned char buffer[BUFFER];
    struct connection *it = &connections[fd];
    memcpy(buffer, it->pending, it->size);
    ssize_t got = read(fd, buffer + it->size, sizeof buffer - it->size);
    if (got <= 0) {
        leave(fd);
        return;
    }
    size_t size = it->size + (size_t)got, at = 0;
    ssize_t taken;
    while ((taken = take(fd, buffer + at, size - at)) > 0) at += (size_t)taken;
    if (taken < 0) {
        leave(fd);
        return;
    }
    it->size = size - at;
    it->pending = realloc(it->pending, it->size + 1);
    if (it->pending == NULL) die("realloc");
    memcpy(it->pending, buffer + at, it->size);
}

static void admit(int epoll, int listener) {
    int fd = accept(listener, NULL, NULL), on = 1;
    if (fd < 0) return;
    if (fd >= MAX_FDS) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connections[fd] = (struct connection){.index = -1, .pending = malloc(1), .size = 0};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s PORT\n", argv[0]);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1, epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(listener, 4096) < 0) die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) die("epoll_ctl");
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            if (events[at].data.fd == listener) admit(epoll, listener);
            else receive(events[at].data.fd);
        }
    }
}
