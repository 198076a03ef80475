/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's end of tests of sockets between guest and host: a program without libraries, since a
 * guest of the tests has none.
 *
 *   vsock-tool cid              prints the guest's own address
 *   vsock-tool echo PORT        accepts connections for ever, and sends each all that it sends
 *   vsock-tool connect PORT     to the host: sends standard input, then prints what comes back
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[65536];

static int fail(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 1;
}

/* Copies until the end of @from. */
static int copy(int from, int to)
{
	ssize_t size, written;

	while ((size = read(from, buffer, sizeof(buffer))) > 0)
		for (ssize_t done = 0; done < size; done += written)
			if ((written = write(to, buffer + done, (size_t)(size - done))) < 0)
				return fail("write");
	return size < 0 ? fail("read") : 0;
}

static int print_cid(void)
{
	int fd = open("/dev/vsock", O_RDONLY);
	unsigned int cid;

	if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid))
		return fail("/dev/vsock");
	printf("%u\n", cid);
	return 0;
}

static int echo(struct sockaddr_vm *address)
{
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0), fd;

	signal(SIGCHLD, SIG_IGN);
	address->svm_cid = VMADDR_CID_ANY;
	if (bind(listener, (struct sockaddr *)address, sizeof(*address)) || listen(listener, 64))
		return fail("listen");
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		if (fork() == 0)
			_exit(copy(fd, fd));
		close(fd);
	}
	return fail("accept");
}

static int connect_to_host(struct sockaddr_vm *address)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0), status;
	pid_t reader;

	address->svm_cid = VMADDR_CID_HOST;
	if (connect(fd, (struct sockaddr *)address, sizeof(*address)))
		return fail("connect");
	reader = fork();
	if (reader == 0)
		_exit(copy(fd, STDOUT_FILENO));
	status = copy(STDIN_FILENO, fd);
	shutdown(fd, SHUT_WR);
	return waitpid(reader, &status, 0) < 0 || status;
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = {.svm_family = AF_VSOCK};

	if (argc == 3)
		address.svm_port = (unsigned int)strtoul(argv[2], NULL, 10);
	if (argc == 2 && strcmp(argv[1], "cid") == 0)
		return print_cid();
	if (argc == 3 && strcmp(argv[1], "echo") == 0)
		return echo(&address);
	if (argc == 3 && strcmp(argv[1], "connect") == 0)
		return connect_to_host(&address);
	return 2;
}
