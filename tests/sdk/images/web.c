// A web server of an image: answers each request with its first line, its argument and a variable; says when it is asked to stop.
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stop(int signal) {
    (void)signal;
    write(1, "asked to stop\n", 14);
    _exit(0);
}

int main(int count, char **arguments) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    signal(SIGTERM, stop);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 64)) {
        return 9;
    }
    for (;;) {
        char head[16384], body[16384], out[32768];
        int client = accept(listener, NULL, NULL);
        size_t held = 0;
        while (held < sizeof head - 1) {
            ssize_t more = read(client, head + held, sizeof head - 1 - held);
            if (more <= 0) {
                break;
            }
            head[held += more] = 0;
            if (strstr(head, "\r\n\r\n")) {
                break;
            }
        }
        head[held] = 0;
        head[strcspn(head, "\r")] = 0;
        char *own = getenv("OWN");
        int length = snprintf(body, sizeof body, "%s|%s|%s", head, count > 1 ? arguments[1] : "", own ? own : "");
        length = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", length, body);
        write(client, out, length);
        close(client);
    }
}
