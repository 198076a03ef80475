/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keeping watch over the process that has the machine, keeper.h. One thread.
 *
 * The successor of a process is its child, and becomes ours when the former has ended: the first
 * process is a "subreaper" (prctl(2)) since its first update. So there are two processes, however
 * many updates there were.
 *
 * Signals go through a pipe, which all successors inherit: its end tells them that we are dead,
 * and a process that was sent the same signal by name can tell the two apart (a terminal and a
 * service manager send it to both).
 */
#include "cli/keeper.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/log.h"

/* All that has ended. False: nobody is left. */
static bool reap(int *status)
{
	int ended;
	pid_t pid;

	while ((pid = waitpid(-1, &ended, WNOHANG)) > 0)
		if (!*status) /* who was replaced ends with 0 */
			*status = ended;
	return pid == 0;
}

/* As the process that had the machine, but that it has written the core. */
static int end_by(int number)
{
	const struct rlimit none = {0};
	sigset_t set;

	log_error("the process that had the machine was ended by signal %d", number);
	setrlimit(RLIMIT_CORE, &none);
	signal(number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(number);
	return 128 + number;
}

int keeper_run(int fd)
{
	int status = 0, number;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	while (reap(&status)) {
		unsigned char byte;

		number = sigwaitinfo(&set, NULL);
		byte = (unsigned char)number;
		if (number > 0 && number != SIGCHLD && write(fd, &byte, 1) < 0)
			log_warning("signal %d is lost: %m", number);
	}
	return WIFSIGNALED(status) ? end_by(WTERMSIG(status)) : WEXITSTATUS(status);
}
