/*
 * An Athena Serving engine in C: returns a text in capital letters, whole or part by part.
 *
 * A resource holds words, one on each line, that stay as they are. Results go to the callback, where there is one, or wait
 * for wrapperRead.
 */
#include <ctype.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wrapper.h"

#define MAX_RESOURCES 8

enum { NO_TEXT = 4001, TOO_MANY_RESOURCES = 4002, NO_MEMORY = 4003 };

typedef struct session {
    char *tag;
    char *words;
    wrapperCallback callback; /* NULL: results wait for wrapperRead */
    pDataList ready;          /* not read yet, the oldest first */
    pDataList done;           /* read; valid until the next wrapperRead */
    long letters;
} session;

/* A call of wrapperExecAsync, for its thread. */
typedef struct job {
    char *tag;
    char *words;
    char *text;
    unsigned int size;
    wrapperCallback callback;
} job;

static wrapperMeterCustom meter;
static wrapperTraceLog trace;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    unsigned int id;
    char *words;
} resources[MAX_RESOURCES];
static long blocks; /* of memory that are in use */
static char suffix[16];

/* Memory, counted */

static void *allocate(size_t size) {
    void *made = calloc(1, size == 0 ? 1 : size);

    if (made == NULL) {
        abort(); /* ends this process, and no other */
    }
    __atomic_add_fetch(&blocks, 1, __ATOMIC_SEQ_CST);
    return made;
}

static void release(void *block) {
    if (block != NULL) {
        __atomic_sub_fetch(&blocks, 1, __ATOMIC_SEQ_CST);
        free(block);
    }
}

static char *copy(const void *data, size_t size) {
    char *made = allocate(size + 1);

    memcpy(made, data, size);
    return made;
}

/* Returns how many blocks of memory the engine holds; only tests call it. */
WrapperAPI long upperBlocks(void) {
    return __atomic_load_n(&blocks, __ATOMIC_SEQ_CST);
}

static void release_list(pDataList list) {
    while (list != NULL) {
        pDataList next = list->next;

        release(list->data);
        release(list);
        list = next;
    }
}

/* The work */

static int is_kept(const char *words, const char *word, size_t size) {
    while (words != NULL && *words != '\0') {
        size_t length = strcspn(words, "\n");

        if (length == size && memcmp(words, word, size) == 0) {
            return 1;
        }
        words += length + (words[length] == '\n');
    }
    return 0;
}

static long capitalise(char *text, size_t size, const char *words) {
    size_t at = 0;
    long letters = 0;

    while (at < size) {
        size_t end = at;

        while (end < size && isalpha((unsigned char)text[end])) {
            end++;
        }
        letters += (long)(end - at);
        if (!is_kept(words, text + at, end - at)) {
            for (; at < end; at++) {
                text[at] = (char)toupper((unsigned char)text[at]);
            }
        }
        at = end + (end < size);
    }
    return letters;
}

/* Returns a result of one piece of data; it takes over the text. */
static pDataList result_of(char *text, unsigned int size, DataStatus status) {
    pDataList made = allocate(sizeof *made);

    made->key = "upper";
    made->data = text;
    made->len = size;
    made->type = DataText;
    made->status = status;
    return made;
}

static pDataList find_text(pDataList data) {
    while (data != NULL && strcmp(data->key, "text") != 0) {
        data = data->next;
    }
    return data;
}

static void report(const char *tag, long letters) {
    if (meter != NULL) {
        meter(tag, "letters", (int)letters);
    }
}

/* The life of the engine */

WrapperAPI int wrapperSetCtrl(CtrlType type, void *func) {
    if (type == CTMeterCustom) {
        meter = (wrapperMeterCustom)func;
    } else if (type == CTTraceLog) {
        trace = (wrapperTraceLog)func;
    }
    return 0;
}

WrapperAPI int wrapperInit(pConfig cfg) {
    suffix[0] = '\0';
    for (; cfg != NULL; cfg = cfg->next) {
        if (strcmp(cfg->key, "suffix") == 0) {
            snprintf(suffix, sizeof suffix, "%s", cfg->value);
        }
    }
    return 0;
}

WrapperAPI int wrapperFini(void) {
    return 0;
}

WrapperAPI const char *wrapperError(int errNum) {
    switch (errNum) {
    case NO_TEXT:
        return "there is no text";
    case TOO_MANY_RESOURCES:
        return "there are too many resources";
    case NO_MEMORY:
        return "there is not enough memory";
    default:
        return "unknown error";
    }
}

WrapperAPI const char *wrapperVersion(void) {
    return "1.2.0";
}

/* Resources */

WrapperAPI int wrapperLoadRes(pDataList perData, unsigned int resId) {
    int place, status = TOO_MANY_RESOURCES;

    pthread_mutex_lock(&lock);
    for (place = 0; place < MAX_RESOURCES && status != 0; place++) {
        if (resources[place].words == NULL) {
            resources[place].id = resId;
            resources[place].words = copy(perData->data, perData->len);
            status = 0;
        }
    }
    pthread_mutex_unlock(&lock);
    return status;
}

WrapperAPI int wrapperUnloadRes(unsigned int resId) {
    int place;

    pthread_mutex_lock(&lock);
    for (place = 0; place < MAX_RESOURCES; place++) {
        if (resources[place].words != NULL && resources[place].id == resId) {
            release(resources[place].words);
            resources[place].words = NULL;
        }
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Returns the words of the first resource that a caller names, or NULL. */
static char *words_of(const unsigned int *ids, int count) {
    char *found = NULL;
    int place;

    pthread_mutex_lock(&lock);
    for (place = 0; place < MAX_RESOURCES && count > 0; place++) {
        if (resources[place].words != NULL && resources[place].id == ids[0]) {
            found = copy(resources[place].words, strlen(resources[place].words));
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* Calls */

WrapperAPI int wrapperExec(const char *usrTag, pParamList params, pDataList reqData, pDataList *respData,
                           unsigned int psrIds[], int psrCnt) {
    pDataList given = find_text(reqData);
    size_t tail = strlen(suffix);
    char *words, *text;

    (void)params;
    if (given == NULL || given->len == 0) {
        return NO_TEXT;
    }
    words = words_of(psrIds, psrCnt);
    text = allocate(given->len + tail);
    memcpy(text, given->data, given->len);
    report(usrTag, capitalise(text, given->len, words));
    memcpy(text + given->len, suffix, tail);
    release(words);
    if (trace != NULL) {
        trace(usrTag, "read", given->key);
    }
    *respData = result_of(text, given->len + (unsigned int)tail, DataOnce);
    return 0;
}

WrapperAPI int wrapperExecFree(const char *usrTag, pDataList *respData) {
    (void)usrTag;
    release_list(*respData);
    *respData = NULL;
    return 0;
}

static void *run(void *given) {
    job *todo = given;
    pDataList result;

    report(todo->tag, capitalise(todo->text, todo->size, todo->words));
    result = result_of(todo->text, todo->size, DataOnce);
    todo->callback(todo->tag, result, 0);
    release_list(result);
    release(todo->words);
    release(todo->tag);
    release(todo);
    return NULL;
}

WrapperAPI int wrapperExecAsync(const char *usrTag, pParamList params, pDataList reqData, wrapperCallback callback,
                                int timeout, unsigned int psrIds[], int psrCnt) {
    pDataList given = find_text(reqData);
    pthread_t thread;
    job *todo;

    (void)params;
    (void)timeout;
    if (given == NULL || given->len == 0) {
        return NO_TEXT;
    }
    todo = allocate(sizeof *todo);
    todo->tag = copy(usrTag, strlen(usrTag));
    todo->words = words_of(psrIds, psrCnt);
    todo->text = copy(given->data, given->len);
    todo->size = given->len;
    todo->callback = callback;
    if (pthread_create(&thread, NULL, run, todo) != 0) {
        release(todo->text);
        release(todo->words);
        release(todo->tag);
        release(todo);
        return NO_MEMORY;
    }
    pthread_detach(thread);
    return 0;
}

/* Sessions */

WrapperAPI const void *wrapperCreate(const char *usrTag, pParamList params, wrapperCallback cb, unsigned int psrIds[],
                                     int psrCnt, int *errNum) {
    session *made = allocate(sizeof *made);

    (void)params;
    made->tag = copy(usrTag, strlen(usrTag));
    made->words = words_of(psrIds, psrCnt);
    made->callback = cb;
    *errNum = 0;
    return made;
}

WrapperAPI int wrapperWrite(const void *handle, pDataList reqData) {
    session *self = (session *)handle;
    pDataList given = find_text(reqData), result, *end;
    char *text;

    if (given == NULL) {
        return NO_TEXT;
    }
    text = copy(given->data, given->len);
    self->letters += capitalise(text, given->len, self->words);
    result = result_of(text, given->len, given->status);
    if (given->status == DataEnd || given->status == DataOnce) {
        report(self->tag, self->letters);
    }
    if (self->callback != NULL) {
        self->callback(self->tag, result, 0);
        release_list(result);
        return 0;
    }
    for (end = &self->ready; *end != NULL; end = &(*end)->next) {
    }
    *end = result;
    return 0;
}

WrapperAPI int wrapperRead(const void *handle, pDataList *respData) {
    session *self = (session *)handle;

    release_list(self->done);
    self->done = self->ready;
    self->ready = NULL;
    *respData = self->done;
    return 0;
}

WrapperAPI const char *wrapperDebugInfo(const void *handle) {
    static __thread char text[64];

    snprintf(text, sizeof text, "%ld letters", ((const session *)handle)->letters);
    return text;
}

WrapperAPI int wrapperDestroy(const void *handle) {
    session *self = (session *)handle;

    release_list(self->ready);
    release_list(self->done);
    release(self->words);
    release(self->tag);
    release(self);
    return 0;
}
