/* SPDX-License-Identifier: BSD-2-Clause */
/* Output of subcommands, output.h. One thread. Running out of memory here ends the program: nothing
 * is at stake. */
#include "cli/output.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/size.h"

/* What a VM or its guest named must not drive the terminal. */
static char *copy_printable(const char *text)
{
	char *copy = strdup(text ?: "-");

	if (!copy) {
		fprintf(stderr, "godwit: out of memory\n");
		exit(1);
	}
	text_make_printable(copy);
	return copy;
}

static void add_cells(struct table *table, va_list arguments)
{
	size_t needed = (size_t)((table->rows + 1) * table->columns);

	table->cells = reallocarray(table->cells, needed, sizeof(char *));
	if (!table->cells) {
		fprintf(stderr, "godwit: out of memory\n");
		exit(1);
	}
	for (int i = 0; i < table->columns; i++)
		table->cells[table->rows * table->columns + i] =
		    copy_printable(va_arg(arguments, const char *));
	table->rows++;
}

void table_start(struct table *table, ...)
{
	const char *heading;
	va_list arguments;

	memset(table, 0, sizeof(*table));
	va_start(arguments, table);
	while (table->columns < TABLE_COLUMNS_MAX &&
	       (heading = va_arg(arguments, const char *)) != NULL)
		table->right[table->columns++] = heading[0] == '>';
	va_end(arguments);
	va_start(arguments, table);
	add_cells(table, arguments);
	va_end(arguments);
	for (int i = 0; i < table->columns; i++)
		if (table->right[i])
			memmove(table->cells[i], table->cells[i] + 1, strlen(table->cells[i]));
}

void table_row(struct table *table, ...)
{
	va_list arguments;

	va_start(arguments, table);
	add_cells(table, arguments);
	va_end(arguments);
}

void table_print(struct table *table, FILE *stream, const char *indent)
{
	int widths[TABLE_COLUMNS_MAX] = {};

	for (int i = 0; i < table->rows * table->columns; i++) {
		int *width = &widths[i % table->columns];

		*width = MAX(*width, (int)strlen(table->cells[i]));
	}
	for (int row = 0; row < table->rows; row++) {
		fputs(indent, stream);
		for (int column = 0; column < table->columns; column++) {
			char **cell = &table->cells[row * table->columns + column];
			bool last = column == table->columns - 1;
			int width = table->right[column] ? widths[column]
				    : last		 ? 0
							 : -widths[column];

			fprintf(stream, "%*s%s", width, *cell, last ? "\n" : "  ");
			free(*cell);
		}
	}
	free(table->cells);
	memset(table, 0, sizeof(*table));
}

const char *bar_format(uint64_t current, uint64_t total, int width, char text[BAR_WIDTH_MAX + 1])
{
	int inner = MAX(MIN(width, BAR_WIDTH_MAX) - 2, 1);
	double share = total ? (double)MIN(current, total) / (double)total : 1;
	int filled = (int)(share * inner);

	text[0] = '[';
	memset(text + 1, '#', (size_t)filled);
	memset(text + 1 + filled, '-', (size_t)(inner - filled));
	strcpy(text + 1 + inner, "]");
	return text;
}

void json_print(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
	json_decref(value);
}

uint64_t json_u64(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value > 0 ? (uint64_t)value : 0;
}

const char *json_text(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key)) ?: "";
}

const char *human(uint64_t bytes)
{
	static char ring[32][SIZE_TEXT_MAX];
	static unsigned int next;

	return size_format_human(bytes, ring[next++ % 32]);
}
