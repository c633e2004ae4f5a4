/*
 * A model in C: takes a picture, returns the picture of its edges and some facts about them.
 *
 * Every call works on memory of its own, so that any number of them can run at a time.
 */
#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "penstock.h"

typedef struct model {
    size_t largest_pixels;
} model;

typedef struct picture {
    size_t width;
    size_t height;
    const unsigned char *pixels; /* row by row */
} picture;

/* What a result points to, in one piece. */
typedef struct answer {
    penstock_part part;
    char json[200];
    unsigned char image[]; /* the PGM: its head, then its pixels */
} answer;

static int fail(penstock_error *error, int status, const char *field, const char *format, ...) {
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    error->message_size = length < 0 ? 0 : (size_t)length;
    error->field_size = strlen(field);
    memcpy(error->field, field, error->field_size);
    return status;
}

int penstock_abi(void) {
    return PENSTOCK_ABI;
}

int penstock_create(const char *config, size_t size, void **created, penstock_error *error) {
    const char *stated = strstr(config, "\"largest_pixels\":");
    model *made;

    (void)size; /* a zero byte ends it as well */
    made = malloc(sizeof *made);
    if (made == NULL) {
        return fail(error, PENSTOCK_FAILED, "", "out of memory");
    }
    made->largest_pixels = stated == NULL ? 10000000 : strtoul(strchr(stated, ':') + 1, NULL, 10);
    if (made->largest_pixels == 0) {
        free(made);
        return fail(error, PENSTOCK_FAILED, "", "largest_pixels must be a number of at least 1");
    }
    *created = made;
    return PENSTOCK_OK;
}

void penstock_destroy(void *created) {
    free(created);
}

/* The next number in the head of a PGM, or 0. Blanks and comments before it are skipped. */
static size_t head_number(const unsigned char *data, size_t size, size_t *at) {
    size_t number = 0;

    while (*at < size && (isspace(data[*at]) || data[*at] == '#')) {
        if (data[*at] == '#') {
            while (*at < size && data[*at] != '\n') {
                ++*at;
            }
        } else {
            ++*at;
        }
    }
    while (*at < size && isdigit(data[*at]) && number < 100000000) {
        number = 10 * number + (size_t)(data[(*at)++] - '0');
    }
    return number;
}

/* Whether the media are a PGM that is whole. */
static int read_pgm(const penstock_part *part, picture *found, size_t largest) {
    const unsigned char *data = part->data;
    size_t at = 2, shades;

    if (part->size < 2 || memcmp(data, "P5", 2) != 0) {
        return 0;
    }
    found->width = head_number(data, part->size, &at);
    found->height = head_number(data, part->size, &at);
    shades = head_number(data, part->size, &at);
    if (found->width == 0 || found->height == 0 || shades == 0 || shades > 255) {
        return 0;
    }
    ++at; /* the one blank behind the head */
    found->pixels = data + at;
    return found->width <= largest / found->height && at <= part->size &&
           found->width * found->height <= part->size - at;
}

/* The shade at a place; outside of the picture that of its border. */
static int shade(const picture *from, long x, long y) {
    long width = (long)from->width, height = (long)from->height;

    x = x < 0 ? 0 : x >= width ? width - 1 : x;
    y = y < 0 ? 0 : y >= height ? height - 1 : y;
    return from->pixels[y * width + x];
}

static unsigned char strength(const picture *from, long x, long y) {
    int across = shade(from, x + 1, y - 1) + 2 * shade(from, x + 1, y) + shade(from, x + 1, y + 1) -
                 shade(from, x - 1, y - 1) - 2 * shade(from, x - 1, y) - shade(from, x - 1, y + 1);
    int down = shade(from, x - 1, y + 1) + 2 * shade(from, x, y + 1) + shade(from, x + 1, y + 1) -
               shade(from, x - 1, y - 1) - 2 * shade(from, x, y - 1) - shade(from, x + 1, y - 1);
    double length = sqrt((double)across * across + (double)down * down);

    return length > 255.0 ? 255 : (unsigned char)length;
}

int penstock_predict(void *created, const penstock_request *request, const penstock_callbacks *callbacks,
                     penstock_result *result, penstock_error *error) {
    static const penstock_bytes place = PENSTOCK_TEXT("/edges"), type = PENSTOCK_TEXT("image/x-portable-graymap");
    const model *self = created;
    picture given;
    answer *made;
    size_t x, y, head, strongest = 0;
    double sum = 0;

    if (request->count != 1) {
        return fail(error, PENSTOCK_BAD_INPUT, "image", "must be one picture");
    }
    if (!read_pgm(request->parts, &given, self->largest_pixels)) {
        return fail(error, PENSTOCK_BAD_INPUT, "image", "must be a binary PGM (P5), whole, of at most %lu pixels",
                    (unsigned long)self->largest_pixels);
    }
    made = malloc(sizeof *made + 64 + given.width * given.height);
    if (made == NULL) {
        return fail(error, PENSTOCK_FAILED, "", "out of memory");
    }
    result->owner = made; /* from here on free_result frees it */
    head = (size_t)sprintf((char *)made->image, "P5\n%lu %lu\n255\n", (unsigned long)given.width,
                           (unsigned long)given.height);
    for (y = 0; y < given.height; y++) {
        if (callbacks->cancelled(callbacks->context)) {
            return PENSTOCK_CANCELLED;
        }
        for (x = 0; x < given.width; x++) {
            unsigned char found = strength(&given, (long)x, (long)y);

            made->image[head + y * given.width + x] = found;
            sum += found;
            strongest = found > strongest ? found : strongest;
        }
    }
    result->json.data = made->json;
    result->json.size = (size_t)sprintf(
        made->json, "{\"width\":%lu,\"height\":%lu,\"mean\":%.6f,\"strongest\":%lu,\"edges\":null}",
        (unsigned long)given.width, (unsigned long)given.height, sum / ((double)given.width * (double)given.height),
        (unsigned long)strongest);
    memset(&made->part, 0, sizeof made->part);
    made->part.path = place;
    made->part.media_type = type;
    made->part.data = made->image;
    made->part.size = head + given.width * given.height;
    result->parts = &made->part;
    result->count = 1;
    return PENSTOCK_OK;
}

void penstock_free_result(void *created, penstock_result *result) {
    (void)created;
    free(result->owner);
}
