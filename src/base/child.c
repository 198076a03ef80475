/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands of child.h. The person who gave the command controls everything about it. */
#include "base/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define PATIENCE_MS 2000 /* between SIGTERM and SIGKILL */

struct child {
	char *command;
	pid_t pid;
	int pidfd;
	bool grouped; /* leads a process group of its own */
	bool ended;   /* and was waited for */
};

/* Whether this process belongs to the job that its terminal listens to. */
static bool in_foreground(void)
{
	AUTO_CLOSE int terminal = open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	return terminal >= 0 && tcgetpgrp(terminal) == getpgrp();
}

/* 0 or an error number. */
static int spawn(struct child *child, int theirs, enum child_pipe direction)
{
	char *const arguments[] = {"sh", "-c", child->command, NULL};
	short flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;
	int result;

	if (child->grouped)
		flags |= POSIX_SPAWN_SETPGROUP;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, flags);
	posix_spawn_file_actions_init(&actions);
	if (direction == CHILD_READS) {
		result = posix_spawn_file_actions_adddup2(&actions, theirs, STDIN_FILENO);
	} else if (direction == CHILD_BOTH) {
		result = posix_spawn_file_actions_adddup2(&actions, theirs, STDIN_FILENO);
		if (!result)
			result = posix_spawn_file_actions_adddup2(&actions, theirs, STDOUT_FILENO);
	} else {
		result = posix_spawn_file_actions_adddup2(&actions, theirs, STDOUT_FILENO);
		if (!result)
			result = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO,
								  "/dev/null", O_RDONLY, 0);
	}
	if (!result)
		result =
		    posix_spawn(&child->pid, "/bin/sh", &actions, &attributes, arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return result;
}

/* ends[0] is read from and ends[1] written to, or each is both. */
static bool make_pipe(enum child_pipe direction, int ends[2])
{
	if (direction == CHILD_BOTH)
		return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0;
	return pipe2(ends, O_CLOEXEC) == 0;
}

static void child_free(struct child *child)
{
	close_fd(&child->pidfd);
	free(child->command);
	free(child);
}

struct error *child_start(const char *command, enum child_pipe direction, int *fd,
			  struct child **result)
{
	struct child *child = calloc(1, sizeof(*child));
	AUTO_CLOSE int reading = -1;
	AUTO_CLOSE int writing = -1;
	int ends[2], failure;

	if (!child)
		return error_system(ENOMEM, "cannot run '%s'", command);
	child->pidfd = -1;
	child->command = strdup(command);
	child->grouped = !in_foreground();
	if (!child->command || !make_pipe(direction, ends)) {
		failure = child->command ? errno : ENOMEM;
		child_free(child);
		return error_system(failure, "cannot run '%s'", command);
	}
	reading = ends[0];
	writing = ends[1];
	failure = spawn(child, direction == CHILD_READS ? reading : writing, direction);
	if (failure) {
		child_free(child);
		return error_system(failure, "cannot run '%s'", command);
	}
	child->pidfd = pidfd_open(child->pid, 0);
	if (child->pidfd < 0) {
		struct error *error = error_system(errno, "cannot watch '%s'", command);

		child_end(child);
		return error;
	}
	*fd = direction == CHILD_READS ? TAKE_FD(writing) : TAKE_FD(reading);
	*result = child;
	return NULL;
}

static struct error *how_it_ended(const struct child *child, int status)
{
	/* A shell tells of a signal to one of its commands with a status above 128. */
	if (WIFSIGNALED(status) ? WTERMSIG(status) == SIGPIPE
				: WEXITSTATUS(status) == 128 + SIGPIPE)
		return error_new(EPIPE, "nobody took what the command '%s' wrote", child->command);
	if (WIFSIGNALED(status))
		return error_new(ECHILD, "the command '%s' was ended by signal %d (%s)",
				 child->command, WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status))
		return error_new(ECHILD, "the command '%s' failed with exit status %d",
				 child->command, WEXITSTATUS(status));
	return NULL;
}

struct error *child_wait(struct child *child, int cancel_fd, int timeout_ms)
{
	struct pollfd fds[] = {{.fd = child->pidfd, .events = POLLIN},
			       {.fd = cancel_fd, .events = POLLIN}};
	int status, ready;

	while ((ready = poll(fds, 2, timeout_ms)) < 0)
		if (errno != EINTR)
			return error_system(errno, "cannot wait for '%s'", child->command);
	if (!fds[0].revents)
		return error_new(ready ? ECANCELED : ETIMEDOUT, "the command '%s' still runs",
				 child->command);
	while (waitpid(child->pid, &status, 0) < 0)
		if (errno != EINTR)
			return error_system(errno, "cannot wait for '%s'", child->command);
	child->ended = true;
	return how_it_ended(child, status);
}

static void send_signal(const struct child *child, int number)
{
	kill(child->grouped ? -child->pid : child->pid, number);
}

void child_end(struct child *child)
{
	struct pollfd ended = {.events = POLLIN};

	if (!child)
		return;
	if (!child->ended) {
		ended.fd = child->pidfd;
		send_signal(child, SIGTERM);
		if (child->pidfd < 0 || poll(&ended, 1, PATIENCE_MS) != 1)
			send_signal(child, SIGKILL);
		while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	child_free(child);
}
