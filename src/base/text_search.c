/* SPDX-License-Identifier: BSD-2-Clause */
/* The search of text_search.h. One thread a struct; nothing can fail. */
#include "base/text_search.h"

#include <assert.h>
#include <string.h>

/* How many bytes of the text have gone by when @byte follows on @matched of them. */
static uint8_t advance(const struct text_search *search, uint8_t matched, char byte)
{
	while (matched && byte != search->text[matched])
		matched = search->border[matched - 1];
	return byte == search->text[matched] ? matched + 1 : matched;
}

void text_search_init(struct text_search *search, const char *text)
{
	size_t length = strlen(text);

	assert(length && length <= TEXT_SEARCH_MAX);
	*search = (struct text_search){.length = (uint8_t)length};
	memcpy(search->text, text, length);
	for (size_t i = 1; i < length; i++)
		search->border[i] = advance(search, search->border[i - 1], text[i]);
}

bool text_search_feed(struct text_search *search, const void *bytes, size_t size)
{
	const char *next = bytes;

	for (size_t i = 0; i < size; i++) {
		search->matched = advance(search, search->matched, next[i]);
		if (search->matched == search->length) {
			search->matched = search->border[search->length - 1];
			return true;
		}
	}
	return false;
}
