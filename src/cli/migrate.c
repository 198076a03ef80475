/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `godwit migrate VM URI`: starts a migration and watches it; or goes on with one whose connections
 * broke, or settles one that is undecided.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/size.h"
#include "cli/command_table.h"
#include "cli/interrupt.h"
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
    {"postcopy", CLI_FLAG, NULL, "the guest moves at once, and its memory follows"},
    {"hybrid", CLI_FLAG, NULL,
     "memory is sent first; what does not become smaller\nfollows the guest"},
    {"stalled-rounds", CLI_REQUIRED, "N",
     "of --hybrid: rounds without gain, behind which the\nguest moves (default: 2)"},
    {"no-wait", CLI_FLAG, NULL, "print the job's id and return at once"},
    {"json", CLI_FLAG, NULL, "print the migration as JSON"},
    {"start-postcopy", CLI_FLAG, NULL, "of a --hybrid one: the guest moves now"},
    {"recover", CLI_FLAG, NULL,
     "of one whose connections broke: goes on over others,\nto URI; at the destination: "
     "waits there"},
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
	if (json_object_get(job, "lacking-pages")) {
		fprintf(stderr, "\r%s %s, %s lacking, %s sent\033[K%s",
			bar_format(json_u64(job, "current-progress"),
				   json_u64(job, "total-progress"), 30, bar),
			json_text(job, "phase"), human(4096 * json_u64(job, "lacking-pages")),
			human(json_u64(job, "sent")), last ? "\n" : "");
		return;
	}
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

/* An event MIGRATION that ends the watch, among those that have come and come within @timeout_ns, or
 * NULL. */
static struct error *next_word(struct qmp_client *client, int64_t timeout_ns, json_t **word)
{
	AUTO_JSON json_t *event = NULL;

	TRY(qmp_client_next_event(client, timeout_ns, &event));
	if (!event || strcmp(json_text(event, "event"), "MIGRATION") != 0)
		return NULL;
	if (strcmp(json_text(json_object_get(event, "data"), "status"), "postcopy-active") != 0)
		*word = json_incref(json_object_get(event, "data"));
	return NULL;
}

static struct error *conclude(const json_t *word)
{
	const char *status = json_text(word, "status");

	if (strcmp(status, "completed") == 0)
		return NULL;
	if (json_object_get(word, "reason") && strcmp(status, "failed") != 0)
		return error_new(EINPROGRESS, "%s: %s", json_text(word, "reason"),
				 json_text(word, "state-text"));
	if (strcmp(status, "undecided") == 0)
		return error_new(EINPROGRESS,
				 "%s: 'godwit migrate --recover' connects again; or look at the "
				 "destination, then 'godwit migrate --resume-here' or '--give-up'",
				 json_text(word, "state-text"));
	if (strcmp(status, "postcopy-paused") == 0)
		return error_new(EINPROGRESS, "%s: 'godwit migrate --recover' connects again",
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
		struct error *error;

		interrupt_pass(client, id);
		error = job_find(client, id, &job);
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

static struct error *add_mode(const struct cli_arguments *arguments, json_t *request)
{
	bool postcopy = cli_has(arguments, "postcopy"), hybrid = cli_has(arguments, "hybrid");
	uint64_t rounds = 0;

	if (postcopy && hybrid)
		return error_usage("--postcopy and --hybrid exclude each other: leave one out");
	if (postcopy || hybrid)
		json_object_set_new(request, "mode", json_string(hybrid ? "hybrid" : "postcopy"));
	if (!cli_has(arguments, "stalled-rounds"))
		return NULL;
	if (!hybrid)
		return error_usage("--stalled-rounds is for --hybrid");
	TRY(error_prefix(
	    number_parse(cli_value(arguments, "stalled-rounds", NULL), UINT32_MAX, &rounds),
	    "--stalled-rounds"));
	json_object_set_new(request, "stalled-rounds", json_integer((json_int_t)rounds));
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
	TRY(add_mode(arguments, request));
	TRY(migrate_uri_open(uri, arguments->positional[1], (uint32_t)channels,
			     json_object_get(request, "mode") != NULL, client));
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
	int rounds = (int)json_u64(word, "round");

	printf("migrated to %s: %s sent in %d round%s, %.1f s; the guest stood still for %.1f ms\n",
	       to, human(json_u64(word, "sent")), rounds, rounds == 1 ? "" : "s",
	       (double)json_u64(word, "elapsed-ns") / NS_PER_SECOND, ms(downtime, "total-ns"));
	if (json_object_get(word, "guest-speed-percent"))
		printf("  before that it was slowed to %d %% of its time, %s\n",
		       (int)json_u64(word, "guest-speed-percent"), json_text(word, "guest-slowed"));
	printf("  stopped %.1f ms, states %.1f, last pages %.1f, loaded %.1f, confirmed %.1f "
	       "(of which resumed %.1f)\n",
	       ms(downtime, "stop-ns"), ms(downtime, "states-ns"), ms(downtime, "pages-ns"),
	       ms(downtime, "load-ns"), ms(downtime, "confirm-ns"), ms(downtime, "resume-ns"));
	if (json_object_get(word, "postcopy-pages"))
		printf("  %s of memory followed the guest, %s of it because it waited for them\n",
		       human(4096 * json_u64(word, "postcopy-pages")),
		       human(4096 * json_u64(word, "requested-pages")));
}

/* Waits for what becomes of job @id, and tells it. */
static struct error *follow(const struct cli_arguments *arguments, struct qmp_client *client,
			    const char *id)
{
	AUTO_JSON json_t *word = NULL;
	struct error *error = watch(client, id, &word);

	if (word && cli_has(arguments, "json"))
		json_print(json_incref(word));
	else if (!error)
		tell(word, arguments->positional[1]);
	return error;
}

static struct error *migrate(const struct cli_arguments *arguments, struct migrate_uri *uri)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *started = NULL;

	TRY(vm_connect(arguments->positional[0], &client));
	if (!cli_has(arguments, "no-wait"))
		interrupt_begin();
	TRY(start(arguments, client, uri, &started));
	if (cli_has(arguments, "no-wait")) {
		if (!cli_has(arguments, "json"))
			printf("%s\n", json_text(started, "job"));
		else
			json_print(TAKE_PTR(started));
		return NULL;
	}
	return follow(arguments, client, json_text(started, "job"));
}

/* --- Recovering -------------------------------------------------------------------------------- */

/* A machine that arrives only waits; its source goes on. */
static struct error *recover(const struct cli_arguments *arguments, struct migrate_uri *uri)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *migration = NULL;
	const json_t *outgoing;
	bool postcopy;

	TRY(vm_connect(arguments->positional[0], &client));
	TRY(qmp_client_execute(client, "godwit-migration", NULL, &migration));
	outgoing = json_object_get(migration, "outgoing");
	postcopy = strcmp(json_text(outgoing, "mode"), "precopy") != 0;
	TRY(migrate_uri_open(uri, arguments->positional[1],
			     (uint32_t)json_u64(outgoing, "channels"), postcopy, client));
	TRY(qmp_client_execute(client, "godwit-migrate-recover",
			       json_pack("{s:s}", "uri", uri->text), NULL));
	if (!outgoing || cli_has(arguments, "no-wait"))
		return NULL;
	return follow(arguments, client, json_text(outgoing, "job"));
}

/* --- What is under way ------------------------------------------------------------------------- */

/* What is done to a migration that is under way, each alone. */
static const char *const actions[] = {"resume-here", "give-up", "start-postcopy", "recover"};

static struct error *find_action(const struct cli_arguments *arguments, const char **action)
{
	*action = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
		if (!cli_has(arguments, actions[i]))
			continue;
		if (*action)
			return error_usage("--%s and --%s exclude each other: leave one out",
					   *action, actions[i]);
		*action = actions[i];
	}
	return NULL;
}

static struct error *check_action(const struct cli_arguments *arguments, const char *action)
{
	bool recovers = strcmp(action, "recover") == 0;

	if (recovers && arguments->positional_count < 2)
		return error_usage("URI is missing: where the destination waits");
	if (!recovers && arguments->positional_count > 1)
		return error_usage("--%s %s a migration: leave the address out", action,
				   strcmp(action, "start-postcopy") == 0 ? "changes" : "ends");
	for (int i = 0; i < arguments->given_count; i++) {
		const char *name = arguments->given[i].option->name;
		bool watches = strcmp(name, "no-wait") == 0 || strcmp(name, "json") == 0;

		if (strcmp(name, action) != 0 && !(recovers && watches))
			return error_usage("--%s is for a migration that begins: leave it out",
					   name);
	}
	return NULL;
}

static struct error *change(const struct cli_arguments *arguments, const char *action,
			    struct migrate_uri *uri)
{
	TRY(check_action(arguments, action));
	if (strcmp(action, "recover") == 0)
		return recover(arguments, uri);
	if (strcmp(action, "start-postcopy") == 0)
		return vm_execute(arguments->positional[0], "godwit-migrate-start-postcopy", NULL,
				  NULL);
	return vm_execute(arguments->positional[0], "godwit-migrate-settle",
			  json_pack("{s:s}", "action", action), NULL);
}

static struct error *run_migrate(const struct cli_arguments *arguments, int *status)
{
	struct migrate_uri uri = {};
	struct error *error;
	const char *action;

	TRY(find_action(arguments, &action));
	if (action) {
		error = change(arguments, action, &uri);
		migrate_uri_close(&uri);
		return error;
	}
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
	"--recover, or --resume-here or --give-up, on either side, settles it. With --postcopy\n"
	"or --hybrid the guest runs there before its memory has come: it waits for what it\n"
	"touches, and needs both hosts until all is there. When the connection breaks meanwhile\n"
	"both sides wait, and --recover goes on. Ctrl-C cancels the migration as long as the "
	"guest\n"
	"can stay; once more, it ends this command, and the migration goes on: 'godwit jobs'\n"
	"shows it.",
    .options = options,
    .run = run_migrate,
};
