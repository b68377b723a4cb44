/* Programs with one fault each: sick KIND PORT. They print a line when they are ready, serve
   one connection on 127.0.0.1 and end after 30 seconds at the latest.

   writable   leaves OUT on, and keeps pointers in epoll_data
   ghost      closes a descriptor that it has duplicated before
   undrained  registers edge-triggered and reads only 10 bytes at each edge
   spent      registers one-shot and never again
   unclosed   does not close after end of file
*/
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct client { int fd; };

int main(int argc, char **argv)
{
    const char *kind = argv[1];
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[2])) };
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), ep = epoll_create1(0);
    struct client me;
    struct epoll_event wanted = { .events = EPOLLIN | EPOLLRDHUP }, got[8];
    char buffer[10];

    if (argc != 3)
        return 2;
    alarm(30);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *) &address, sizeof address) || listen(listener, 4))
        return 3;
    puts("listening");
    fflush(stdout);
    me.fd = accept(listener, NULL, NULL);
    wanted.data.ptr = &me;
    if (!strcmp(kind, "writable"))
        wanted.events |= EPOLLOUT;
    if (!strcmp(kind, "undrained"))
        wanted.events |= EPOLLET;
    if (!strcmp(kind, "spent"))
        wanted.events |= EPOLLONESHOT;
    epoll_ctl(ep, EPOLL_CTL_ADD, me.fd, &wanted);
    if (!strcmp(kind, "ghost")) {
        dup(me.fd);
        close(me.fd);
    }
    puts("accepted");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(ep, got, 8, -1);
        for (int i = 0; i < n; i++) {
            struct client *it = got[i].data.ptr;
            if (strcmp(kind, "ghost") && got[i].events & EPOLLIN)
                read(it->fd, buffer, sizeof buffer);
        }
        if (!strcmp(kind, "unclosed") && got[0].events & EPOLLRDHUP)
            epoll_ctl(ep, EPOLL_CTL_MOD, me.fd, &(struct epoll_event) { .events = 0 });
    }
}
