/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit qmp VM COMMAND [key=value …]`: any command of the control socket. */
#include <string.h>

#include "cli/command_table.h"
#include "cli/vm.h"

/* Adds key=value: JSON if it is (numbers, true, arrays), a string otherwise. */
static struct error *add_argument(json_t *arguments, const char *text)
{
	const char *equals = strchr(text, '=');
	AUTO_FREE char *key = equals ? strndup(text, (size_t)(equals - text)) : NULL;
	json_t *value;

	if (!equals || equals == text)
		return error_usage("'%s' is not key=value", text);
	value = json_loads(equals + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
	if (!value)
		value = json_string(equals + 1);
	if (!value || !key || json_object_set_new(arguments, key, value) < 0)
		return error_usage("'%s' is not valid UTF-8", text);
	return NULL;
}

static struct error *run_qmp(const struct cli_arguments *arguments, int *status)
{
	AUTO_JSON json_t *list = json_object();
	json_t *result = NULL;

	for (int i = 2; i < arguments->positional_count; i++)
		TRY(add_argument(list, arguments->positional[i]));
	TRY(vm_execute(arguments->positional[0], arguments->positional[1], json_incref(list),
		       &result));
	json_print(result);
	return NULL;
}

const struct cli_command cli_qmp = {
    .name = "qmp",
    .positionals = "VM COMMAND [KEY=VALUE]...",
    .minimum = 2,
    .maximum = CLI_POSITIONAL_MAX,
    .summary = "Send a command to the control socket of a VM",
    .description =
	"Prints what it returns as JSON. A value that is JSON (a number, true, an array) is sent\n"
	"as such, anything else as a string. 'godwit qmp VM query-commands' lists the commands.",
    .run = run_qmp,
};
