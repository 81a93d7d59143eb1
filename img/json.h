/*
 * json.h - JSON as qemu-img prints it: four spaces, keys in the order given, ASCII alone.
 */
#ifndef IMG_JSON_H
#define IMG_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* A string of arbitrary bytes: what is not UTF-8 becomes U+FFFD. */
json_t *json_text(const char *text);

/* Each adds one member. */
void json_add_text(json_t *object, const char *key, const char *text);
void json_add_number(json_t *object, const char *key, uint64_t number);
void json_add_nonzero(json_t *object, const char *key, uint64_t number); /* nothing for 0 */
void json_add_bool(json_t *object, const char *key, bool value);

/* Prints and frees `value` (NULL: out of memory). 0 or, after a message, -1. */
int json_print(json_t *value);

#endif
