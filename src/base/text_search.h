/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Finds a text in bytes that go by in pieces, each looked at once (Knuth, Morris and Pratt). Keeps
 * none of them.
 */
#ifndef GODWIT_BASE_TEXT_SEARCH_H
#define GODWIT_BASE_TEXT_SEARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_SEARCH_MAX 255 /* bytes of a text */

struct text_search {
	char text[TEXT_SEARCH_MAX];
	uint8_t length;
	uint8_t matched; /* bytes of the text that were the last to go by */
	uint8_t
	    border[TEXT_SEARCH_MAX]; /* how long an end of the first n + 1 bytes they begin with */
};

/* @text has 1 to TEXT_SEARCH_MAX bytes. */
void text_search_init(struct text_search *search, const char *text);
/* The next @size bytes; whether the text ended in one of them (those behind it are not looked at). */
bool text_search_feed(struct text_search *search, const void *bytes, size_t size);

#endif
