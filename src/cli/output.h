/* SPDX-License-Identifier: BSD-2-Clause */
/* What subcommands print: tables, progress bars, JSON. */
#ifndef GODWIT_CLI_OUTPUT_H
#define GODWIT_CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#define TABLE_COLUMNS_MAX 16

struct table {
	int columns;
	bool right[TABLE_COLUMNS_MAX]; /* numbers */
	char **cells;		       /* rows of columns; the first is the heading */
	int rows;
};

/*
 * Starts a table with the headings given, NULL at the end; one that starts with '>' is aligned to
 * the right (the '>' is not shown).
 */
void table_start(struct table *table, ...) __attribute__((sentinel));
/* Adds a row of exactly as many texts as there are columns. NULL is shown as "-". */
void table_row(struct table *table, ...);
/* Writes the table, each line after @indent, and releases it. */
void table_print(struct table *table, FILE *stream, const char *indent);

#define BAR_WIDTH_MAX 64
/* A bar of @width characters, at most BAR_WIDTH_MAX, as "[####----]"; returns @text. */
const char *bar_format(uint64_t current, uint64_t total, int width, char text[BAR_WIDTH_MAX + 1]);

/* Prints @value, which is freed, indented, with a newline. */
void json_print(json_t *value);
/* Members of what the VM answered; 0 or "" when they are not as expected. */
uint64_t json_u64(const json_t *object, const char *key);
const char *json_text(const json_t *object, const char *key);

/* "1.50 GiB", allocated from a ring of 32, for one line of output. */
const char *human(uint64_t bytes);

#endif
