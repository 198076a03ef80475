/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * `godwit top`: a live view of all VMs: processors, memory, jobs. Plain ANSI sequences, one frame each interval; one
 * thread. VMs come and go while it runs; one that does not answer is shown as such and asked again.
 */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"
#include "cli/command_table.h"
#include "cli/vm.h"

#define VMS_MAX	   256
#define HEAD_MARK  '\001' /* begins a line of a frame that is a heading */
#define ONCE_DELAY 0.5	  /* seconds between the two looks that --once takes */

static const struct cli_option options[] = {
    {"interval", CLI_REQUIRED, "SECONDS", "time between two frames (default: 1)"},
    {"sort", CLI_REQUIRED, "KEY", "cpu (default), memory or name"},
    {"once", CLI_FLAG, NULL, "print one frame and end, as for a script"},
    {"json", CLI_FLAG, NULL, "print one frame as JSON and end"},
    {},
};

enum sort_key { SORT_CPU, SORT_MEMORY, SORT_NAME };

struct top_vm {
	char name[VM_NAME_MAX + 1];
	struct qmp_client *client; /* NULL: not connected */
	json_t *now, *before;	   /* the last two answers to godwit-statistics, or NULL */
	double cpu;		   /* percent of one processor, between the two */
	bool seen;		   /* by the listing of this round */
};

struct top {
	struct top_vm vms[VMS_MAX];
	size_t count;
	enum sort_key sort;
};

/* A handler cannot be told a context: what a signal asked for. */
static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	interrupted = 1;
}

static void on_resize(int number)
{
	/* Only to end poll early. */
}

/* ---- gathering ---- */

static void vm_forget(struct top_vm *vm)
{
	qmp_client_close(TAKE_PTR(vm->client));
	json_decref(TAKE_PTR(vm->now));
	json_decref(TAKE_PTR(vm->before));
	vm->cpu = 0;
}

static double number(const json_t *object, const char *key)
{
	return (double)json_integer_value(json_object_get(object, key));
}

/* Asks the VM; without an answer `now` is NULL. */
static void vm_look(struct top_vm *vm)
{
	struct error *error = NULL;
	json_t *answer = NULL;

	if (!vm->client)
		error = vm_connect_within(vm->name, VM_VIEW_TIMEOUT_NS, &vm->client);
	if (!error)
		error = qmp_client_execute(vm->client, "godwit-statistics", NULL, &answer);
	if (error) {
		error_free(error);
		vm_forget(vm);
		return;
	}
	json_decref(vm->before);
	vm->before = vm->now;
	vm->now = answer;
	if (vm->before) {
		double time = number(vm->now, "time-ns") - number(vm->before, "time-ns");
		double used =
		    number(vm->now, "process-cpu-ns") - number(vm->before, "process-cpu-ns");

		vm->cpu = time > 0 && used > 0 ? used / time * 100 : 0;
	}
}

static struct top_vm *find_vm(struct top *top, const char *name)
{
	for (size_t i = 0; i < top->count; i++)
		if (strcmp(top->vms[i].name, name) == 0)
			return &top->vms[i];
	if (top->count == VMS_MAX)
		return NULL;
	top->vms[top->count] = (struct top_vm){};
	snprintf(top->vms[top->count].name, sizeof(top->vms[0].name), "%s", name);
	return &top->vms[top->count++];
}

static const struct top *sorting; /* qsort tells no context */

static int compare_vms(const void *a, const void *b)
{
	const struct top_vm *left = a, *right = b;
	double l = left->cpu, r = right->cpu;

	if (sorting->sort == SORT_MEMORY) {
		l = number(json_object_get(left->now, "memory"), "resident");
		r = number(json_object_get(right->now, "memory"), "resident");
	}
	if (sorting->sort != SORT_NAME && l != r)
		return l < r ? 1 : -1;
	return strcmp(left->name, right->name);
}

static void sort_vms(struct top *top)
{
	sorting = top;
	qsort(top->vms, top->count, sizeof(top->vms[0]), compare_vms);
}

/* Brings the list up to date and asks every VM. */
static struct error *top_look(struct top *top)
{
	struct run_listing *listings = NULL;
	size_t count = 0, kept = 0;

	TRY(run_directory_list(&listings, &count));
	for (size_t i = 0; i < top->count; i++)
		top->vms[i].seen = false;
	for (size_t i = 0; i < count; i++) {
		struct top_vm *vm = find_vm(top, listings[i].name);

		if (vm)
			vm->seen = true;
	}
	run_listings_free(listings, count);
	for (size_t i = 0; i < top->count; i++) {
		if (top->vms[i].seen)
			top->vms[kept++] = top->vms[i];
		else
			vm_forget(&top->vms[i]);
	}
	top->count = kept;
	for (size_t i = 0; i < top->count; i++)
		vm_look(&top->vms[i]);
	sort_vms(top);
	return NULL;
}

/* ---- drawing ---- */

static void draw_vm(const struct top_vm *vm, FILE *frame)
{
	json_t *memory = json_object_get(vm->now, "memory");
	json_t *guest = json_object_get(vm->now, "guest");
	json_t *item;
	size_t index;
	char bar[BAR_WIDTH_MAX + 1];

	if (!vm->now) {
		fprintf(frame, "%-16s %-14s\n", vm->name, "no answer");
		return;
	}
	fprintf(frame, "%-16s %-14s %6.1f %4zu %9s %9s %9s %9s %9s %9s\n", vm->name,
		json_text(vm->now, "status"), vm->cpu,
		json_array_size(json_object_get(vm->now, "cpus")), human(json_u64(memory, "boot")),
		human(json_u64(memory, "plugged")), human(json_u64(memory, "maximum")),
		human(json_u64(memory, "resident")),
		human(json_u64(json_object_get(memory, "vmm"), "proportional")),
		guest ? human(json_u64(guest, "available-memory")) : "-");
	json_array_foreach (json_object_get(vm->now, "elastic"), index, item) {
		uint64_t plugged = json_u64(item, "plugged"),
			 requested = json_u64(item, "requested");

		fprintf(frame, "  %-14s node %" PRIu64 " %s %s of %s", json_text(item, "id"),
			json_u64(item, "node"),
			bar_format(plugged, json_u64(item, "maximum"), 26, bar), human(plugged),
			human(json_u64(item, "maximum")));
		if (plugged != requested)
			fprintf(frame, ", %s requested: %s", human(requested),
				json_text(item, "reason"));
		fputc('\n', frame);
	}
	json_array_foreach (json_object_get(vm->now, "jobs"), index, item) {
		uint64_t current = json_u64(item, "current-progress");
		uint64_t total = json_u64(item, "total-progress");

		if (strcmp(json_text(item, "status"), "concluded") == 0)
			continue;
		fprintf(frame, "  job %-17s %s %3d %% %s\n", json_text(item, "id"),
			bar_format(current, total, 26, bar),
			total ? (int)(100.0 * (double)current / (double)total) : 100,
			json_text(item, "reason"));
	}
}

static void draw(const struct top *top, FILE *frame, bool interactive)
{
	uint64_t resident = 0, own = 0;
	time_t now = time(NULL);
	struct tm local;
	char clock[16];

	for (size_t i = 0; i < top->count; i++) {
		json_t *memory = json_object_get(top->vms[i].now, "memory");

		resident += json_u64(memory, "resident");
		own += json_u64(json_object_get(memory, "vmm"), "proportional");
	}
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &local));
	fprintf(frame, "godwit top %s  %zu VM%s, the host holds %s for guests and %s for VMMs\n",
		clock, top->count, top->count == 1 ? "" : "s", human(resident), human(own));
	if (interactive)
		fprintf(frame, "q quit   sort by: c CPU, m memory, n name\n");
	fprintf(frame, "%c%-16s %-14s %6s %4s %9s %9s %9s %9s %9s %9s\n", HEAD_MARK, "NAME",
		"STATUS", "CPU%", "CPUS", "BOOT", "PLUGGED", "MAXIMUM", "RESIDENT", "VMM",
		"GUESTFREE");
	for (size_t i = 0; i < top->count; i++)
		draw_vm(&top->vms[i], frame);
	if (!top->count)
		fprintf(frame, "no VM is running\n");
}

/* Draws one frame into allocated text. */
static struct error *draw_text(const struct top *top, bool interactive, char **text)
{
	size_t size;
	FILE *frame = open_memstream(text, &size);

	if (!frame)
		return error_system(errno, "cannot draw");
	draw(top, frame, interactive);
	return fclose(frame) == 0 ? NULL : error_system(errno, "cannot draw");
}

/* Shows @text from the top of the terminal, each line cut to its width. */
static void show(const char *text)
{
	struct winsize window = {};
	int columns = 80, rows = 24;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col && window.ws_row) {
		columns = window.ws_col;
		rows = window.ws_row;
	}
	fputs("\033[H", stdout);
	for (int row = 0; row < rows && *text; row++) {
		size_t length = strcspn(text, "\n");
		bool head = *text == HEAD_MARK;

		if (row)
			fputs("\r\n", stdout);
		printf("%s%.*s\033[K%s", head ? "\033[7m" : "",
		       (int)MIN(length - head, (size_t)columns), text + head,
		       head ? "\033[0m" : "");
		text += length + (text[length] == '\n');
	}
	fputs("\033[J", stdout);
	fflush(stdout);
}

static void print_plain(const char *text)
{
	for (; *text; text++)
		if (*text != HEAD_MARK)
			putchar(*text);
}

/* ---- the terminal ---- */

static void terminal_enter(struct termios *saved)
{
	struct termios raw;

	tcgetattr(STDIN_FILENO, saved);
	raw = *saved;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 0;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	fputs("\033[?1049h\033[?25l", stdout); /* the other screen, no cursor */
}

static void terminal_leave(const struct termios *saved)
{
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, saved);
}

/* Takes the keys that were pressed; false when one was to quit. */
static bool take_keys(struct top *top)
{
	char keys[16];
	ssize_t count = read(STDIN_FILENO, keys, sizeof(keys));

	for (ssize_t i = 0; i < count; i++) {
		if (keys[i] == 'q' || keys[i] == 'Q')
			return false;
		if (keys[i] == 'c')
			top->sort = SORT_CPU;
		else if (keys[i] == 'm')
			top->sort = SORT_MEMORY;
		else if (keys[i] == 'n')
			top->sort = SORT_NAME;
	}
	return count != 0; /* 0: the terminal is gone */
}

/* Frames until the user quits. */
static struct error *watch(struct top *top, double interval)
{
	int64_t period = (int64_t)(interval * NS_PER_SECOND), next = clock_monotonic_ns();

	while (!interrupted) {
		struct pollfd keyboard = {.fd = STDIN_FILENO, .events = POLLIN};
		int64_t now = clock_monotonic_ns();
		AUTO_FREE char *text = NULL;

		if (now >= next) {
			TRY(top_look(top));
			now = clock_monotonic_ns();
			next = now + period;
		}
		sort_vms(top);
		TRY(draw_text(top, true, &text));
		show(text);
		if (poll(&keyboard, 1, (int)((next - now) / NS_PER_MS) + 1) > 0 && !take_keys(top))
			break;
	}
	return NULL;
}

static struct error *run_live(struct top *top, double interval)
{
	struct sigaction stop = {.sa_handler = on_signal}, resize = {.sa_handler = on_resize};
	struct termios saved;
	struct error *error;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return error_usage(
		    "standard input and output are not a terminal: use --once or --json");
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGHUP, &stop, NULL);
	sigaction(SIGWINCH, &resize, NULL);
	terminal_enter(&saved);
	error = watch(top, interval);
	terminal_leave(&saved);
	return error;
}

static json_t *to_json(const struct top *top)
{
	json_t *list = json_array();

	for (size_t i = 0; i < top->count; i++) {
		const struct top_vm *vm = &top->vms[i];
		json_t *object =
		    vm->now ? json_copy(vm->now)
			    : json_pack("{s:s,s:s}", "name", vm->name, "status", "unreachable");

		json_object_set_new(object, "cpu-percent", json_real(vm->cpu));
		json_array_append_new(list, object);
	}
	return list;
}

static struct error *run_once(struct top *top, bool json)
{
	const struct timespec pause = {.tv_nsec = (long)(ONCE_DELAY * NS_PER_SECOND)};
	AUTO_FREE char *text = NULL;

	TRY(top_look(top));
	if (top->count)
		nanosleep(&pause, NULL);
	TRY(top_look(top));
	if (json) {
		json_print(to_json(top));
		return NULL;
	}
	TRY(draw_text(top, false, &text));
	print_plain(text);
	return NULL;
}

static struct error *run_top(const struct cli_arguments *arguments, int *status)
{
	static const char *const keys[] = {"cpu", "memory", "name"};
	const char *key = cli_value(arguments, "sort", "cpu");
	struct top *top = calloc(1, sizeof(*top));
	struct error *error;
	double interval;
	size_t sort = 0;

	if (!top)
		return error_system(ENOMEM, "list of VMs");
	while (sort < ARRAY_SIZE(keys) && strcmp(keys[sort], key) != 0)
		sort++;
	top->sort = (enum sort_key)sort;
	error = cli_seconds(arguments, "interval", 1, &interval);
	if (!error && sort == ARRAY_SIZE(keys))
		error = error_usage("--sort: '%s' is none of cpu, memory, name", key);
	if (!error && interval < 0.1)
		error = error_usage("--interval: at least 0.1 seconds");
	if (!error && (cli_has(arguments, "once") || cli_has(arguments, "json")))
		error = run_once(top, cli_has(arguments, "json"));
	else if (!error)
		error = run_live(top, interval);
	for (size_t i = 0; i < top->count; i++)
		vm_forget(&top->vms[i]);
	free(top);
	return error;
}

const struct cli_command cli_top = {
    .name = "top",
    .positionals = "",
    .summary = "Watch all VMs: processors, memory, jobs",
    .description =
	"Keys: q quits; c, m and n sort by CPU, memory and name. CPU% is of one processor. VMM is\n"
	"what the process holds beside the guest's memory; GUESTFREE what the guest says is\n"
	"available (with a balloon that asks for statistics).",
    .options = options,
    .run = run_top,
};
