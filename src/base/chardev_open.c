/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening and closing what a character device's text names.
 *
 * Runs when the machine is built and taken down. Fails when the text or the path is wrong. The user
 * controls the text; nothing here is a guest's.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/chardev_internal.h"

/*
 * A non-blocking descriptor for what standard descriptor @fd is. The flag belongs to the open file,
 * which we share with the shell and others, so a new open file is needed where one can be had:
 * terminals and pipes. Others are duplicated: sockets have MSG_DONTWAIT, regular files do not block
 * and would lose their position.
 */
static int reopen_standard(int fd, int mode)
{
	struct stat status;
	char path[32];
	int reopened = -1;

	if (fstat(fd, &status))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (S_ISCHR(status.st_mode) || S_ISFIFO(status.st_mode))
		reopened = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return reopened >= 0 ? reopened : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static bool is_type(int fd, mode_t type)
{
	struct stat status;

	return !fstat(fd, &status) && (status.st_mode & S_IFMT) == type;
}

static void set_raw(struct chardev *chardev)
{
	struct termios raw;

	/* A background job that touches the terminal would be stopped. */
	if (tcgetpgrp(chardev->in_fd) != getpgrp() || tcgetattr(chardev->in_fd, &chardev->terminal))
		return;
	raw = chardev->terminal;
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST; /* for what others, our log included, print there */
	chardev->restore_terminal = !tcsetattr(chardev->in_fd, TCSANOW, &raw);
}

static struct error *open_tty(struct chardev *chardev)
{
	chardev->in_fd = reopen_standard(STDIN_FILENO, O_RDONLY);
	chardev->out_fd = reopen_standard(STDOUT_FILENO, O_WRONLY);
	if (chardev->out_fd < 0)
		return error_system(errno, "cannot use standard output");
	chardev->writes_directly = is_type(chardev->out_fd, S_IFREG);
	chardev->out_is_socket = is_type(chardev->out_fd, S_IFSOCK);
	chardev->is_terminal = chardev->in_fd >= 0 && isatty(chardev->in_fd);
	if (chardev->is_terminal)
		set_raw(chardev);
	return NULL;
}

static struct error *open_file(struct chardev *chardev, const char *path)
{
	/* Non-blocking, so that a pipe without a reader is an error and not a hang. */
	chardev->out_fd =
	    open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		 0600);
	if (chardev->out_fd < 0)
		return error_system(errno, "cannot open '%s'", path);
	chardev->writes_directly = true;
	return NULL;
}

/* Whether the file at @address is a socket that was left behind. */
static bool socket_is_stale(const struct sockaddr_un *address)
{
	struct stat status;
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && !lstat(address->sun_path, &status) && S_ISSOCK(status.st_mode) &&
	       connect(fd, (const struct sockaddr *)address, sizeof(*address)) &&
	       errno == ECONNREFUSED;
}

static struct error *open_socket(struct chardev *chardev, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct sockaddr *generic = (const struct sockaddr *)&address;
	int failure;

	if (!*path || strlen(path) >= sizeof(address.sun_path))
		return error_usage(
		    "'%s' cannot be a socket: its path must have 1 to %zu characters", path,
		    sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	chardev->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (chardev->listen_fd < 0)
		return error_system(errno, "cannot make a socket");
	/* Who may connect controls the guest's console; Linux gives the file these permissions. */
	fchmod(chardev->listen_fd, 0600);
	failure = bind(chardev->listen_fd, generic, sizeof(address));
	if (failure && errno == EADDRINUSE && socket_is_stale(&address)) {
		unlink(path);
		failure = bind(chardev->listen_fd, generic, sizeof(address));
	}
	if (failure)
		return error_system(errno, "cannot listen on '%s'", path);
	chardev->socket_path = strdup(path);
	if (!chardev->socket_path) {
		unlink(path);
		return error_system(ENOMEM, "cannot listen on '%s'", path);
	}
	if (listen(chardev->listen_fd, 4))
		return error_system(errno, "cannot listen on '%s'", path);
	chardev->out_is_socket = true;
	return NULL;
}

/* "pty:/dev/pts/3" */
static struct error *name_pty(struct chardev *chardev)
{
	char name[64], *text;

	if (ptsname_r(chardev->in_fd, name, sizeof(name)))
		return error_system(errno, "cannot use a pseudo-terminal");
	if (asprintf(&text, "pty:%s", name) < 0)
		return error_system(ENOMEM, "cannot open '%s'", name);
	free(chardev->name);
	chardev->name = text;
	return NULL;
}

static struct error *open_pty(struct chardev *chardev)
{
	char name[64];
	struct termios raw;

	chardev->in_fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	chardev->out_fd = chardev->in_fd;
	if (chardev->in_fd < 0 || grantpt(chardev->in_fd) || unlockpt(chardev->in_fd) ||
	    ptsname_r(chardev->in_fd, name, sizeof(name)))
		return error_system(errno, "cannot make a pseudo-terminal");
	chardev->slave_fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (chardev->slave_fd < 0 || tcgetattr(chardev->slave_fd, &raw))
		return error_system(errno, "cannot open '%s'", name);
	cfmakeraw(&raw); /* or it would echo the guest's output back to it */
	if (tcsetattr(chardev->slave_fd, TCSANOW, &raw))
		return error_system(errno, "cannot set up '%s'", name);
	return name_pty(chardev);
}

struct error *chardev_open(struct chardev *chardev, const char *text)
{
	if (!strcmp(text, "null")) {
		chardev->is_null = true;
		return NULL;
	}
	if (!strcmp(text, "tty"))
		return open_tty(chardev);
	if (!strcmp(text, "pty"))
		return open_pty(chardev);
	if (!strncmp(text, "file:", 5) && text[5])
		return open_file(chardev, text + 5);
	if (!strncmp(text, "unix:", 5) && text[5])
		return open_socket(chardev, text + 5);
	return error_usage("'%s' is not a character device: use null, tty, pty, file:PATH or "
			   "unix:PATH",
			   text);
}

struct error *chardev_open_handed(struct chardev *chardev, const char *text,
				  const struct chardev_descriptors *descriptors)
{
	bool tty = !strcmp(text, "tty"), socket = !strncmp(text, "unix:", 5);

	chardev->in_fd = descriptors->in;
	chardev->out_fd = descriptors->out;
	chardev->listen_fd = descriptors->listen;
	chardev->slave_fd = descriptors->slave;
	chardev->kept_fd = descriptors->kept;
	chardev->shared = chardev->away = chardev->adopted = true;
	chardev->is_null = !strcmp(text, "null");
	if (!chardev->is_null && (socket ? chardev->listen_fd : chardev->out_fd) < 0)
		return error_new(EBADMSG, "'%s' has not come along", text);
	/* Raw mode is on already; who turned it on turns it off. */
	chardev->is_terminal = tty && chardev->in_fd >= 0 && isatty(chardev->in_fd);
	chardev->writes_directly =
	    !strncmp(text, "file:", 5) || (tty && is_type(chardev->out_fd, S_IFREG));
	chardev->out_is_socket = socket || (tty && is_type(chardev->out_fd, S_IFSOCK));
	if (socket) {
		chardev->socket_path = strdup(text + 5);
		if (!chardev->socket_path)
			return error_system(ENOMEM, "'%s'", text);
	}
	return strcmp(text, "pty") ? NULL : name_pty(chardev);
}

void chardev_close(struct chardev *chardev)
{
	if (chardev->restore_terminal && !chardev->away)
		tcsetattr(chardev->in_fd, TCSANOW, &chardev->terminal);
	if (chardev->in_fd == chardev->out_fd)
		chardev->in_fd = -1;
	close_fd(&chardev->in_fd);
	close_fd(&chardev->out_fd);
	close_fd(&chardev->slave_fd);
	if (chardev->socket_path && !chardev->away)
		unlink(chardev->socket_path);
	close_fd(&chardev->kept_fd);
	free(TAKE_PTR(chardev->socket_path));
	close_fd(&chardev->listen_fd);
}
