/* The program inside of test images: speaks the Runtime API over a plain socket and does what events ask for.
 *
 * An event is a JSON string of a word and a path: "read /etc/hosts". The answer is a JSON string too.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

extern char **environ;
static char answer[1 << 16];

static void add(const char *text) {
    strncat(answer, text, sizeof answer - strlen(answer) - 1);
}

/* Sends a request and reads the answer to its end. */
static void call(const char *request, size_t length, char *into, size_t size) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9001)};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) exit(3);
    while (length > 0) {
        ssize_t sent = write(fd, request, length);
        if (sent <= 0) exit(4);
        request += sent;
        length -= sent;
    }
    size_t got = 0;
    ssize_t read_now;
    while (got + 1 < size && (read_now = read(fd, into + got, size - got - 1)) > 0) got += read_now;
    into[got] = 0;
    close(fd);
}

static void list(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) return add(strerror(errno));
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.' && strlen(entry->d_name) < 3) continue;
        add(entry->d_name);
        add(" ");
    }
    closedir(folder);
}

static void act(const char *word, const char *path, char **argv) {
    char buffer[1 << 14];
    struct stat about;
    answer[0] = 0;
    if (!strcmp(word, "line")) {
        for (; *argv; argv++) add(*argv), add("|");
    } else if (!strcmp(word, "cwd")) {
        add(getcwd(buffer, sizeof buffer));
    } else if (!strcmp(word, "env")) {
        const char *value = getenv(path);
        add(value ? value : "(none)");
    } else if (!strcmp(word, "ids")) {
        snprintf(buffer, sizeof buffer, "%d %d", (int)getuid(), (int)geteuid());
        add(buffer);
    } else if (!strcmp(word, "stat")) {
        if (lstat(path, &about) < 0) return add(strerror(errno));
        snprintf(buffer, sizeof buffer, "%o", (unsigned)about.st_mode);
        add(buffer);
    } else if (!strcmp(word, "read")) {
        int fd = open(path, O_RDONLY);
        ssize_t got = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
        if (got < 0) return add(strerror(errno));
        buffer[got] = 0;
        for (char *c = buffer; *c; c++)
            if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = '~';
        add(buffer);
        close(fd);
    } else if (!strcmp(word, "write")) {
        int fd = open(path, O_WRONLY | O_CREAT, 0644);
        if (fd < 0) return add(strerror(errno));
        add(write(fd, "x", 1) == 1 ? "written" : strerror(errno));
        close(fd);
    } else if (!strcmp(word, "unlink")) {
        add(unlink(path) < 0 ? strerror(errno) : "removed");
    } else if (!strcmp(word, "chmod")) {
        add(chmod(path, 0777) < 0 ? strerror(errno) : "changed");
    } else if (!strcmp(word, "mknod")) {
        add(mknod(path, S_IFCHR | 0666, makedev(1, 3)) < 0 ? strerror(errno) : "made");
    } else if (!strcmp(word, "list")) {
        list(path);
    } else {
        add("what?");
    }
}

int main(int argc, char **argv) {
    (void)argc;
    static char message[1 << 16], request[1 << 17];
    puts("loaded");
    fflush(stdout);
    for (;;) {
        const char next[] = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        call(next, sizeof next - 1, message, sizeof message);
        char *id = strcasestr(message, "lambda-runtime-aws-request-id:"), *body = strstr(message, "\r\n\r\n");
        if (!id || !body) return 5;
        id += strlen("lambda-runtime-aws-request-id:");
        id += strspn(id, " ");
        id[strcspn(id, "\r")] = 0;
        char word[64] = "", path[4096] = "";
        char *quote = strchr(body, '"');
        if (quote) sscanf(quote + 1, "%63[^ \"] %4095[^\"]", word, path);
        if (!strcmp(word, "exit")) return 7;
        act(word, path, argv);
        int length = snprintf(request, sizeof request,
            "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            "Content-Length: %zu\r\n\r\n\"%s\"", id, strlen(answer) + 2, answer);
        call(request, length, message, sizeof message);
    }
}
