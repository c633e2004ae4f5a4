/*
 * aiges/type.h - the types of the C interface of Athena Serving engines.
 *
 * The names and the layout are those that engines of Athena Serving were written for; the words are Penstock's. See
 * wrapper.h for the functions, and docs/athena/engines.md for a guide.
 */
#ifndef AIGES_TYPE_H
#define AIGES_TYPE_H

#include <stdint.h>

/* Marks an exported function. */
#define WrapperAPI __attribute__((visibility("default")))

/* [interface] Penstock itself reads the declarations from here on, so they hold no other preprocessor directives. */

/* The kinds of functions that wrapperSetCtrl receives. */
typedef enum {
    CTMeterCustom = 0, /* a wrapperMeterCustom */
    CTMetricsLog = 1,  /* a wrapperMetrics */
    CTTraceLog = 2     /* a wrapperTraceLog */
} CtrlType;

typedef enum {
    DataText = 0,
    DataAudio = 1,
    DataImage = 2,
    DataVideo = 3,
    DataPer = 4 /* data of a resource, and any other data */
} DataType;

/* The place of a piece of data in its stream. */
typedef enum {
    DataBegin = 0,
    DataContinue = 1,
    DataEnd = 2,
    DataOnce = 3 /* the first piece and the last one */
} DataStatus;

/* A list of pairs: parameters of a call, the configuration, or the attributes of a piece of data. */
typedef struct ParamList {
    char *key;
    char *value;       /* followed by a zero byte */
    unsigned int vlen; /* of value, in bytes, without the zero byte */
    struct ParamList *next;
} *pParamList, *pConfig, *pDescList;

/* A list of pieces of data: the input or the results of a call. */
typedef struct DataList {
    char *key;
    void *data;
    unsigned int len; /* of data, in bytes */
    DataType type;
    DataStatus status;
    pDescList desc; /* attributes, or NULL */
    struct DataList *next;
} *pDataList;

/* [end of interface] */

#endif
