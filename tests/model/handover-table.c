/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Prints the handover's table as the library has it, a line for each rule that leads somewhere, in
 * the words that the model prints when it uses one: for tests that compare the two. With
 * --markdown the tables of docs/migration-handover.md.
 */
#include <stdio.h>
#include <string.h>

#include "migration/handover.h"

static void print_rules(void)
{
	for (int state = 0; state < HANDOVER_STATES; state++) {
		for (int event = 0; event < HANDOVER_EVENTS; event++) {
			const struct handover_rule *rule = handover_rule(state, event);

			if (rule->verdict != HANDOVER_GOES)
				continue;
			printf("%c %s %s: %s %s %s\n",
			       handover_side_of(state) == HANDOVER_SOURCE ? 'S' : 'D',
			       handover_state_name(state), handover_event_name(event),
			       handover_state_name(rule->next),
			       handover_action_name(rule->actions[0]),
			       handover_action_name(rule->actions[1]));
		}
	}
}

/* "→ NEXT: A, B"; a state that stays shows its actions alone. */
static void print_step(enum handover_state state, const struct handover_rule *rule)
{
	const char *separator = " — ";

	printf("%s", rule->next == state ? "stays" : handover_state_name(rule->next));
	for (int i = 0; i < HANDOVER_RULE_ACTIONS; i++) {
		if (rule->actions[i] == HANDOVER_NOTHING)
			continue;
		printf("%s%s", separator, handover_action_name(rule->actions[i]));
		separator = ", ";
	}
}

static void print_side(enum handover_side side)
{
	static const char *const guest[] = {
	    [HANDOVER_GUEST_RUNS] = "runs",
	    [HANDOVER_GUEST_STOPPED] = "stopped",
	    [HANDOVER_GUEST_NEVER] = "never again",
	};

	printf("| state | guest | |\n|---|---|---|\n");
	for (int state = 0; state < HANDOVER_STATES; state++) {
		if (handover_side_of(state) == side)
			printf("| %s | %s | %s |\n", handover_state_name(state),
			       guest[handover_guest(state)], handover_state_text(state));
	}
	printf("\n| in | event | goes to — actions |\n|---|---|---|\n");
	for (int state = 0; state < HANDOVER_STATES; state++) {
		const char *name = handover_state_name(state);

		if (handover_side_of(state) != side)
			continue;
		for (int event = 0; event < HANDOVER_EVENTS; event++) {
			const struct handover_rule *rule = handover_rule(state, event);

			if (rule->verdict != HANDOVER_GOES)
				continue;
			printf("| %s | %s | ", name, handover_event_name(event));
			print_step(state, rule);
			printf(" |\n");
			name = "";
		}
	}
	printf("\n");
}

static void print_markdown(void)
{
	static const char *const class[] = {
	    [HANDOVER_TO_SOURCE] = "destination → source",
	    [HANDOVER_TO_DESTINATION] = "source → destination",
	    [HANDOVER_LINK] = "connection",
	    [HANDOVER_SELF] = "own work",
	    [HANDOVER_OPERATOR] = "operator",
	};

	printf("### Events\n\n| event | from | |\n|---|---|---|\n");
	for (int event = 0; event < HANDOVER_EVENTS; event++)
		printf("| %s | %s | %s |\n", handover_event_name(event),
		       class[handover_event_class(event)], handover_event_text(event));
	printf("\n### Actions\n\n| action | |\n|---|---|\n");
	for (int action = HANDOVER_NOTHING + 1; action < HANDOVER_ACTIONS; action++)
		printf("| %s | %s |\n", handover_action_name(action), handover_action_text(action));
	printf("\n### The source\n\n");
	print_side(HANDOVER_SOURCE);
	printf("### The destination\n\n");
	print_side(HANDOVER_DESTINATION);
}

int main(int count, char **arguments)
{
	if (count > 1 && !strcmp(arguments[1], "--markdown"))
		print_markdown();
	else
		print_rules();
	return 0;
}
