/* SPDX-License-Identifier: BSD-2-Clause */
/* The error value of error.h. No thread, no lock: an error has one owner at a time. */
#include "base/error.h"

#include <string.h>

struct error {
	enum error_kind kind;
	int code;
	char *message; /* owned; never NULL except in out_of_memory */
};

static struct error out_of_memory = {.kind = ERROR_FAILURE, .code = ENOMEM, .message = NULL};

void text_make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

__attribute__((format(printf, 4, 0))) static struct error *error_vnew(enum error_kind kind,
								      int code, const char *suffix,
								      const char *format,
								      va_list arguments)
{
	struct error *error = calloc(1, sizeof(*error));
	AUTO_FREE char *text = NULL;

	if (!error)
		return &out_of_memory;
	error->kind = kind;
	error->code = code;
	if (vasprintf(&text, format, arguments) < 0) {
		text = NULL;
		free(error);
		return &out_of_memory;
	}
	if (!suffix) {
		error->message = TAKE_PTR(text);
	} else if (asprintf(&error->message, "%s: %s", text, suffix) < 0) {
		free(error);
		return &out_of_memory;
	}
	text_make_printable(error->message);
	return error;
}

struct error *error_new(int code, const char *format, ...)
{
	va_list arguments;
	struct error *error;

	va_start(arguments, format);
	error = error_vnew(ERROR_FAILURE, code, NULL, format, arguments);
	va_end(arguments);
	return error;
}

struct error *error_system(int code, const char *format, ...)
{
	va_list arguments;
	struct error *error;

	va_start(arguments, format);
	error = error_vnew(ERROR_FAILURE, code, strerrordesc_np(code) ?: "unknown error", format,
			   arguments);
	va_end(arguments);
	return error;
}

struct error *error_usage(const char *format, ...)
{
	va_list arguments;
	struct error *error;

	va_start(arguments, format);
	error = error_vnew(ERROR_USAGE, EINVAL, NULL, format, arguments);
	va_end(arguments);
	return error;
}

struct error *error_prefix(struct error *error, const char *format, ...)
{
	AUTO_FREE char *context = NULL;
	va_list arguments;
	char *message;
	int length;

	if (!error || error == &out_of_memory)
		return error;
	va_start(arguments, format);
	length = vasprintf(&context, format, arguments);
	va_end(arguments);
	if (length < 0) {
		context = NULL;
		return error;
	}
	if (asprintf(&message, "%s: %s", context, error->message) < 0)
		return error;
	text_make_printable(message);
	free(error->message);
	error->message = message;
	return error;
}

const char *error_message(const struct error *error)
{
	return error->message ?: "out of memory";
}

int error_code(const struct error *error)
{
	return error->code;
}

enum error_kind error_kind(const struct error *error)
{
	return error->kind;
}

void error_free(struct error *error)
{
	if (!error || error == &out_of_memory)
		return;
	free(error->message);
	free(error);
}
