/* A library for the native runtime with the operations of the shared suite. It searches its input with strstr, which suffices here. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "penstock.h"

int penstock_abi(void) { return PENSTOCK_ABI; }

int penstock_create(const char *config, size_t size, void **model, penstock_error *error) {
    (void)config; (void)size; (void)error;
    *model = NULL;
    return PENSTOCK_OK;
}

static double number_of(const char *json, const char *key) {
    const char *found = strstr(json, key);
    return found == NULL ? 0.0 : atof(found + strlen(key));
}

static int is(const char *json, const char *op) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"op\":\"%s\"", op);
    return strstr(json, wanted) != NULL;
}

static char *copy_of(const char *text) {
    char *made = malloc(strlen(text) + 1);
    strcpy(made, text);
    return made;
}

static void nap(double seconds) {
    struct timespec left;
    left.tv_sec = (time_t)seconds;
    left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
    nanosleep(&left, NULL);
}

struct kept { char *json; char *data; penstock_part part; };

int penstock_predict(void *model, const penstock_request *request, const penstock_callbacks *callbacks,
                     penstock_result *result, penstock_error *error) {
    struct kept *kept = calloc(1, sizeof *kept);
    char *json = malloc(request->input.size + 1);
    double seconds, slept;
    (void)model;
    memcpy(json, request->input.data, request->input.size);
    json[request->input.size] = 0;
    result->owner = kept;
    if (is(json, "echo")) {
        const char *text = strstr(json, "\"text\":\"");
        size_t size = text == NULL ? 0 : strcspn(text + 8, "\"");
        kept->json = malloc(size + 16);
        sprintf(kept->json, "{\"text\":\"%.*s\"}", (int)size, text == NULL ? "" : text + 8);
    } else if (is(json, "stream")) {
        long n = (long)number_of(json, "\"n\":"), i;
        for (i = 0; i < n; i++) {
            char chunk[32];
            if (callbacks->chunk(callbacks->context, chunk, (size_t)sprintf(chunk, "%ld", i), NULL, 0)) break;
        }
        free(json);
        return PENSTOCK_OK;
    } else if (is(json, "raise")) {
        const char *message = "this is what went wrong";
        error->message_size = strlen(message);
        memcpy(error->message, message, error->message_size);
        free(json);
        return PENSTOCK_FAILED;
    } else if (is(json, "exit")) {
        _exit(9);
    } else if (is(json, "segfault")) {
        raise(SIGSEGV);
    } else if (is(json, "abort")) {
        abort();
    } else if (is(json, "sleep")) {
        seconds = number_of(json, "\"seconds\":");
        for (slept = 0; slept < seconds && !callbacks->cancelled(callbacks->context); slept += 0.005) nap(0.005);
        kept->json = copy_of("{\"text\":\"slept\"}");
    } else if (is(json, "grow")) {
        kept->data = malloc(300u * 1024u * 1024u);
        memset(kept->data, 1, 300u * 1024u * 1024u);
        nap(60);
    } else if (is(json, "blob") && request->count == 1) {
        size_t size = request->parts[0].size, i;
        const char *from = request->parts[0].data;
        kept->data = malloc(size);
        for (i = 0; i < size; i++) kept->data[i] = from[size - 1 - i];
        kept->json = copy_of("{\"blob\":null}");
        kept->part.path.data = "/blob";
        kept->part.path.size = 5;
        kept->part.media_type.data = "image/x-mirrored";
        kept->part.media_type.size = 16;
        kept->part.data = kept->data;
        kept->part.size = size;
        result->parts = &kept->part;
        result->count = 1;
    } else {
        const char *text = strstr(json, "\"text\":\"");
        fprintf(stderr, "%.*s\n", text == NULL ? 0 : (int)strcspn(text + 8, "\""), text == NULL ? "" : text + 8);
        kept->json = copy_of("{\"text\":\"printed\"}");
    }
    free(json);
    result->json.data = kept->json;
    result->json.size = strlen(kept->json);
    return PENSTOCK_OK;
}

void penstock_free_result(void *model, penstock_result *result) {
    struct kept *kept = result->owner;
    (void)model;
    if (kept != NULL) {
        free(kept->json);
        free(kept->data);
        free(kept);
    }
}

void penstock_destroy(void *model) { (void)model; }
