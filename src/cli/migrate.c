/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit migrate VM URI`: starts a migration and watches it; or settles one that is undecided. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/size.h"
#include "cli/command_table.h"
#include "cli/job_wait.h"
#include "cli/migrate_uri.h"
#include "cli/vm.h"

#define POLL_NS (100 * NS_PER_MS)

static const struct cli_option options[] = {
    {"channels", CLI_REQUIRED, "N", "data connections, 1 to 64 (default: 2)"},
    {"max-downtime", CLI_REQUIRED, "MS",
     "milliseconds that the guest may stand still, 1 to\n60000 (default: 300)"},
    {"bandwidth", CLI_REQUIRED, "RATE", "send at most so many bytes a second: 500M"},
    {"share-memory", CLI_FLAG, NULL,
     "hand memory to a process of this host (unix:), and\ncopy nothing"},
    {"auto-converge", CLI_FLAG, NULL, "slow the guest down while it writes faster than is\nsent"},
    {"tls", CLI_REQUIRED, "DIR", "encrypt, with the certificates in DIR"},
    {"tls-name", CLI_REQUIRED, "NAME",
     "what the destination's certificate is for (default:\nthe host of a tcp: address)"},
    {"compress", CLI_REQUIRED, "HOW", "none (default) or zstd"},
    {"no-wait", CLI_FLAG, NULL, "print the job's id and return at once"},
    {"json", CLI_FLAG, NULL, "print the migration as JSON"},
    {"resume-here", CLI_FLAG, NULL,
     "of an undecided migration: the guest goes on here; it\n"
     "does not run, and never did, on the other side"},
    {"give-up", CLI_FLAG, NULL, "likewise: the other side has the guest"},
    {},
};

/* --- Watching ---------------------------------------------------------------------------------- */

static void draw(const json_t *job, bool last)
{
	char bar[BAR_WIDTH_MAX + 1];

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(
	    stderr, "\r%s round %d, %s sent, %s/s",
	    bar_format(json_u64(job, "current-progress"), json_u64(job, "total-progress"), 30, bar),
	    (int)json_u64(job, "round"), human(json_u64(job, "sent")),
	    human(json_u64(job, "send-rate")));
	if (json_object_get(job, "expected-time-ns"))
		fprintf(stderr, ", %.0f s left",
			(double)json_u64(job, "expected-time-ns") / NS_PER_SECOND);
	fprintf(stderr, "\033[K%s", last ? "\n" : "");
	if (json_object_get(job, "why"))
		fprintf(stderr, "\n%s\033[K%s", json_text(job, "why"), last ? "\n" : "\r\033[A");
}

/* An event MIGRATION among those that have come and come within @timeout_ns, or NULL. */
static struct error *next_word(struct qmp_client *client, int64_t timeout_ns, json_t **word)
{
	AUTO_JSON json_t *event = NULL;

	TRY(qmp_client_next_event(client, timeout_ns, &event));
	if (event && strcmp(json_text(event, "event"), "MIGRATION") == 0)
		*word = json_incref(json_object_get(event, "data"));
	return NULL;
}

static struct error *conclude(const json_t *word)
{
	const char *status = json_text(word, "status");

	if (strcmp(status, "completed") == 0)
		return NULL;
	if (strcmp(status, "undecided") == 0)
		return error_new(EINPROGRESS,
				 "%s: look at the destination, then 'godwit migrate "
				 "--resume-here' or '--give-up'",
				 json_text(word, "state-text"));
	return error_new(ECANCELED, "%s", json_text(word, "reason"));
}

/*
 * Until the event tells what became of the guest: the VM ends with it, so that nobody can be asked
 * afterwards.
 */
static struct error *watch(struct qmp_client *client, const char *id, json_t **word)
{
	while (!*word) {
		AUTO_JSON json_t *job = NULL;
		struct error *error = job_find(client, id, &job);

		if (!error)
			draw(job, false);
		else if (error_code(error) != ECONNRESET && error_code(error) != EPIPE)
			return error;
		error_free(error);
		TRY(next_word(client, POLL_NS, word));
	}
	draw(*word, true);
	return conclude(*word);
}

/* --- Migrating --------------------------------------------------------------------------------- */

static struct error *add_numbers(const struct cli_arguments *arguments, uint64_t channels,
				 json_t *request)
{
	uint64_t downtime = 0, bandwidth = 0;

	json_object_set_new(request, "channels", json_integer((json_int_t)channels));
	if (cli_has(arguments, "max-downtime")) {
		TRY(error_prefix(
		    number_parse(cli_value(arguments, "max-downtime", NULL), UINT32_MAX, &downtime),
		    "--max-downtime"));
		json_object_set_new(request, "max-downtime", json_integer((json_int_t)downtime));
	}
	if (cli_has(arguments, "bandwidth")) {
		TRY(error_prefix(size_parse(cli_value(arguments, "bandwidth", NULL), &bandwidth),
				 "--bandwidth"));
		json_object_set_new(request, "bandwidth", json_integer((json_int_t)bandwidth));
	}
	return NULL;
}

static struct error *add_texts(const struct cli_arguments *arguments, json_t *request)
{
	const char *tls = cli_value(arguments, "tls", NULL);
	char folder[PATH_MAX];

	if (tls && !realpath(tls, folder))
		return error_system(errno, "--tls %s", tls);
	if (tls)
		json_object_set_new(request, "tls", json_string(folder));
	if (cli_has(arguments, "tls-name"))
		json_object_set_new(request, "tls-name",
				    json_string(cli_value(arguments, "tls-name", NULL)));
	if (cli_has(arguments, "compress"))
		json_object_set_new(request, "compress",
				    json_string(cli_value(arguments, "compress", NULL)));
	if (cli_has(arguments, "share-memory"))
		json_object_set_new(request, "share-memory", json_true());
	if (cli_has(arguments, "auto-converge"))
		json_object_set_new(request, "auto-converge", json_true());
	return NULL;
}

static struct error *start(const struct cli_arguments *arguments, struct qmp_client *client,
			   struct migrate_uri *uri, json_t **started)
{
	AUTO_JSON json_t *request = json_object();
	uint64_t channels = 2;

	TRY(error_prefix(number_parse(cli_value(arguments, "channels", "2"), UINT32_MAX, &channels),
			 "--channels"));
	TRY(add_numbers(arguments, channels, request));
	TRY(add_texts(arguments, request));
	TRY(migrate_uri_open(uri, arguments->positional[1], (uint32_t)channels, client));
	json_object_set_new(request, "uri", json_string(uri->text));
	return qmp_client_execute(client, "godwit-migrate", json_incref(request), started);
}

static double ms(const json_t *object, const char *key)
{
	return (double)json_u64(object, key) / NS_PER_MS;
}

static void tell(const json_t *word, const char *to)
{
	const json_t *downtime = json_object_get(word, "downtime");

	printf("migrated to %s: %s sent in %d rounds, %.1f s; the guest stood still for %.1f ms\n",
	       to, human(json_u64(word, "sent")), (int)json_u64(word, "round"),
	       (double)json_u64(word, "elapsed-ns") / NS_PER_SECOND, ms(downtime, "total-ns"));
	if (json_object_get(word, "guest-speed-percent"))
		printf("  before that it was slowed to %d %% of its time\n",
		       (int)json_u64(word, "guest-speed-percent"));
	printf("  stopped %.1f ms, states %.1f, last pages %.1f, loaded %.1f, confirmed %.1f "
	       "(of which resumed %.1f)\n",
	       ms(downtime, "stop-ns"), ms(downtime, "states-ns"), ms(downtime, "pages-ns"),
	       ms(downtime, "load-ns"), ms(downtime, "confirm-ns"), ms(downtime, "resume-ns"));
}

static struct error *migrate(const struct cli_arguments *arguments, struct migrate_uri *uri)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *started = NULL;
	AUTO_JSON json_t *word = NULL;
	struct error *error;

	TRY(vm_connect(arguments->positional[0], &client));
	TRY(start(arguments, client, uri, &started));
	if (cli_has(arguments, "no-wait")) {
		if (!cli_has(arguments, "json"))
			printf("%s\n", json_text(started, "job"));
		else
			json_print(TAKE_PTR(started));
		return NULL;
	}
	error = watch(client, json_text(started, "job"), &word);
	if (word && cli_has(arguments, "json"))
		json_print(json_incref(word));
	else if (!error)
		tell(word, arguments->positional[1]);
	return error;
}

/* --- Settling ---------------------------------------------------------------------------------- */

static struct error *settle(const struct cli_arguments *arguments)
{
	bool resume_here = cli_has(arguments, "resume-here");

	if (resume_here && cli_has(arguments, "give-up"))
		return error_usage("--resume-here and --give-up exclude each other: leave one out");
	if (arguments->positional_count > 1)
		return error_usage("--%s ends a migration: leave the address out",
				   resume_here ? "resume-here" : "give-up");
	for (int i = 0; i < arguments->given_count; i++) {
		const char *name = arguments->given[i].option->name;

		if (strcmp(name, "resume-here") != 0 && strcmp(name, "give-up") != 0)
			return error_usage("--%s is for a migration that begins: leave it out",
					   name);
	}
	return vm_execute(arguments->positional[0], "godwit-migrate-settle",
			  json_pack("{s:s}", "action", resume_here ? "resume-here" : "give-up"),
			  NULL);
}

static struct error *run_migrate(const struct cli_arguments *arguments, int *status)
{
	struct migrate_uri uri = {};
	struct error *error;

	if (cli_has(arguments, "resume-here") || cli_has(arguments, "give-up"))
		return settle(arguments);
	if (arguments->positional_count < 2)
		return error_usage("URI is missing: where a 'godwit run --incoming' waits");
	if (cli_has(arguments, "no-wait") && strncmp(arguments->positional[1], "exec:", 5) == 0)
		return error_usage("--no-wait: the commands of exec: have to be waited for");
	error = migrate(arguments, &uri);
	migrate_uri_close(&uri);
	return error;
}

const struct cli_command cli_migrate = {
    .name = "migrate",
    .positionals = "VM [URI]",
    .minimum = 1,
    .maximum = 2,
    .summary = "Move a running VM to another host",
    .description =
	"URI is where 'godwit run --incoming' waits: tcp:HOST:PORT, unix:PATH, vsock:CID:PORT,\n"
	"fd:N+N… (connected sockets: one, and one for each channel) or exec:COMMAND (started once\n"
	"for each; $GODWIT_CHANNEL is main, 0, 1 …). The guest runs on until it stands still for\n"
	"a moment; this VM ends when it runs there. When anything breaks it goes on here, but\n"
	"for one moment in which nobody can tell: the migration is then undecided, and\n"
	"--resume-here or --give-up, on either side, settles it. Interrupting this command does\n"
	"not end the migration: 'godwit jobs' shows it and cancels it.",
    .options = options,
    .run = run_migrate,
};
