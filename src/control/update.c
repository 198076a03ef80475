/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The process that goes on with a machine, update.h: what it is started with, and its end when it
 * does not come so far.
 *
 *	BINARY run --incoming fd:MAIN+fd:DATA --take-over DOCUMENT --log LEVEL
 *
 * DOCUMENT is a file with JSON: what belongs to the machine (machine/machine_hand.h), and "name",
 * "socket", "token", "keeper", which belong to the process. That is all that two versions have to
 * agree on, beside the stream and its versions; a program that does not know it ends at once.
 *
 * Fails when the program cannot be started; whatever it does afterwards shows at the connection.
 * Whoever has the control socket chooses the program.
 */
#include "control/update.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/checked.h"
#include "base/log.h"
#include "control/commands.h"
#include "control/migrate_job.h"
#include "control/qmp_server.h"
#include "machine/machine_hand.h"
#include "virtio/handed.h"

enum end { MAIN, DATA, ENDS };

struct update {
	struct control *control;
	char *binary;
	pid_t pid;  /* 0: there is none, or the machine is its */
	int status; /* of one that was waited for */
	int token_fd;
	int ours[ENDS], theirs[ENDS]; /* of the connections, as long as nobody else has them */
};

/*
 * --- The process's end -------------------------------------------------------------------------
 */

/* One that had ended by itself keeps its status. */
static void kill_process(struct update *update)
{
	if (!update->pid)
		return;
	kill(update->pid, SIGKILL);
	while (waitpid(update->pid, &update->status, 0) < 0 && errno == EINTR)
		;
	update->pid = 0;
}

void update_free(struct update *update)
{
	if (!update)
		return;
	kill_process(update);
	close_fd(&update->token_fd);
	for (int i = 0; i < ENDS; i++) {
		close_fd(&update->ours[i]);
		close_fd(&update->theirs[i]);
	}
	free(update->binary);
	free(update);
}

void update_released(struct update *update)
{
	qmp_server_accept(update->control->server, false);
}

/* It is this process's machine, with everything. */
static void take_back(struct control *control)
{
	machine_hand_end(control->machine);
	qmp_server_accept(control->server, true);
}

void update_decide(struct update *update, struct machine_migrate *migrate)
{
	eventfd_t token;
	bool ours = eventfd_read(update->token_fd, &token) == 0;
	struct error *error;

	if (ours)
		kill_process(update);
	error = machine_migrate_settle(migrate, ours);
	if (error)
		log_error("update: %s", error_message(error));
	error_free(error);
}

struct error *update_end(struct update *update, struct error *error)
{
	struct error *told;
	char how[80] = "";

	if (!error) {
		update->pid = 0;
		update->control->process->left = true;
		return NULL;
	}
	kill_process(update);
	take_back(update->control);
	if (WIFEXITED(update->status))
		snprintf(how, sizeof(how),
			 "; it ended with status %d, and has told the VM's log why",
			 WEXITSTATUS(update->status));
	else if (WTERMSIG(update->status) != SIGKILL)
		snprintf(how, sizeof(how), "; it was ended by signal %d", WTERMSIG(update->status));
	told = error_new(error_code(error),
			 "'%s' did not take over, and the VM runs on as it was: %s%s",
			 update->binary, error_message(error), how);
	error_free(error);
	return told;
}

/*
 * --- Its beginning -----------------------------------------------------------------------------
 */

static struct error *no_room(int failure)
{
	return error_system(failure, "an update");
}

static struct error *connect_ends(struct update *update)
{
	for (int i = 0; i < ENDS; i++) {
		int ends[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
			return no_room(errno);
		update->ours[i] = ends[0];
		update->theirs[i] = ends[1];
	}
	update->token_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	return update->token_fd < 0 ? no_room(errno) : NULL;
}

/* The first process of all is the one that keeps watch. */
static struct error *prepare_keeper(struct control_process *process)
{
	if (process->keeper_fd >= 0 || process->keep_fds[0] >= 0)
		return NULL;
	/* Before there can be a grandchild, which must not get lost. */
	signal(SIGCHLD, SIG_DFL);
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ||
	    pipe2(process->keep_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return no_room(errno);
	return NULL;
}

static struct error *describe(struct update *update, json_t *document)
{
	struct control_process *process = update->control->process;

	TRY(prepare_keeper(process));
	TRY(machine_hand_share(update->control->machine, document));
	handed_put(document, "name", process->name_fd);
	handed_put(document, "socket", qmp_server_socket(update->control->server));
	handed_put(document, "token", update->token_fd);
	handed_put(document, "keeper",
		   process->keeper_fd >= 0 ? process->keeper_fd : process->keep_fds[0]);
	return NULL;
}

static struct error *write_document(const json_t *document, int *fd)
{
	AUTO_FREE char *text = json_dumps(document, JSON_COMPACT);
	AUTO_CLOSE int own = memfd_create("update", MFD_CLOEXEC);

	if (!text || own < 0)
		return no_room(text ? errno : ENOMEM);
	if (write(own, text, strlen(text)) != (ssize_t)strlen(text))
		return no_room(errno);
	*fd = TAKE_FD(own);
	return NULL;
}

/* Of the same number there: it stays open. */
static bool inherit(void *actions, int fd)
{
	return posix_spawn_file_actions_adddup2(actions, fd, fd) == 0;
}

static struct error *spawn(struct update *update, const json_t *document)
{
	char address[64], number[16];
	const char *const arguments[] = {update->binary,
					 "run",
					 "--incoming",
					 address,
					 "--take-over",
					 number,
					 "--log",
					 update->control->process->log_level,
					 NULL};
	AUTO_CLOSE int document_fd = -1;
	posix_spawn_file_actions_t actions;
	int failure = ENOMEM;

	TRY(write_document(document, &document_fd));
	snprintf(address, sizeof(address), "fd:%d+fd:%d", update->theirs[MAIN],
		 update->theirs[DATA]);
	snprintf(number, sizeof(number), "%d", document_fd);
	posix_spawn_file_actions_init(&actions);
	if (inherit(&actions, document_fd) && inherit(&actions, update->theirs[MAIN]) &&
	    inherit(&actions, update->theirs[DATA]) && handed_each(document, inherit, &actions))
		failure = posix_spawn(&update->pid, update->binary, &actions, NULL,
				      (char *const *)arguments, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (failure) {
		update->pid = 0;
		return error_system(failure, "cannot start '%s'", update->binary);
	}
	for (int i = 0; i < ENDS; i++)
		close_fd(&update->theirs[i]);
	return NULL;
}

static struct error *begin(struct update *update)
{
	json_t *document = json_object();
	struct error *error;

	error = connect_ends(update);
	if (!error)
		error = describe(update, document);
	if (!error)
		error = spawn(update, document);
	json_decref(document);
	return error;
}

static struct error *create(struct control *control, const char *binary, struct update **result)
{
	struct update *update = calloc(1, sizeof(*update));

	if (!update)
		return no_room(ENOMEM);
	update->control = control;
	update->token_fd = -1;
	for (int i = 0; i < ENDS; i++)
		update->ours[i] = update->theirs[i] = -1;
	update->binary = strdup(binary);
	if (!update->binary) {
		update_free(update);
		return no_room(ENOMEM);
	}
	*result = update;
	return NULL;
}

/*
 * --- The command -------------------------------------------------------------------------------
 */

static struct error *check(const struct control *control,
			   const struct machine_migrate_options *options, const char *binary)
{
	if (!control->process)
		return error_new(ENOTSUP, "this VM's process cannot be updated");
	if (*binary != '/')
		return error_usage("binary: '%s' is not an absolute path", binary);
	TRY(machine_migrate_check(control->machine, options));
	for (const struct job *job = jobs_first(control->jobs); job; job = job->next)
		if (job->status != JOB_CONCLUDED)
			return error_new(EBUSY,
					 "job '%s' (%s) is under way: wait for it or cancel it",
					 job->id, job->ops->type);
	return NULL;
}

static struct error *start(struct control *control, const char *binary,
			   struct machine_migrate_options *options, const char *id,
			   struct job **job)
{
	struct update *update = NULL;
	char address[64];
	struct error *error;

	TRY(create(control, binary, &update));
	error = begin(update);
	if (error) {
		update_free(update);
		return error;
	}
	snprintf(address, sizeof(address), "fd:%d+fd:%d", TAKE_FD(update->ours[MAIN]),
		 TAKE_FD(update->ours[DATA]));
	options->address = address;
	options->label = binary;
	return migrate_job_start(control, update, options, id, job);
}

struct error *command_godwit_update(void *context, json_t *arguments, json_t **result)
{
	struct control *control = context;
	const char *binary = qmp_string(arguments, "binary", "");
	struct machine_migrate_options options = {
	    .channels = 1,
	    .downtime_ms = MACHINE_MIGRATE_DOWNTIME_MS,
	    .share_memory = true,
	    .update = true,
	};
	struct error *error;
	struct job *job;

	TRY(check(control, &options, binary));
	error = start(control, binary, &options, qmp_string(arguments, "job-id", NULL), &job);
	if (error) {
		take_back(control);
		return error;
	}
	*result = json_pack("{s:s}", "job", job->id);
	return NULL;
}
