// A model in C++: takes the names of notes and streams their sounds, each as soon as it is computed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "penstock.h"

namespace {

constexpr double pi = 3.14159265358979323846;

struct Model {
    unsigned rate; // samples per second
};

struct BadInput : std::runtime_error {
    BadInput(std::string named, const std::string &message) : std::runtime_error(message), field(std::move(named)) {}
    std::string field;
};

std::string_view view(const penstock_bytes &bytes) {
    return bytes.size == 0 ? std::string_view() : std::string_view(bytes.data, bytes.size);
}

penstock_bytes bytes(std::string_view text) {
    return {text.data(), text.size()};
}

// The schema has been checked: the names of members and notes are all that a string can be, so it is enough to search.
// It returns what follows "name": or nothing. A real model would use a JSON library.
std::string_view member(std::string_view json, std::string_view name) {
    const std::string quoted = '"' + std::string(name) + '"';
    const auto found = json.find(quoted);
    if (found == std::string_view::npos) {
        return {};
    }
    return json.substr(json.find(':', found + quoted.size()) + 1);
}

double number(std::string_view json, std::string_view name, double otherwise) {
    const std::string stated(member(json, name).substr(0, 40));
    return stated.empty() ? otherwise : std::strtod(stated.c_str(), nullptr);
}

std::vector<std::string> strings(std::string_view json, std::string_view name) {
    std::string_view rest = member(json, name);
    rest = rest.substr(0, rest.find(']'));
    std::vector<std::string> found;
    for (auto begin = rest.find('"'); begin != std::string_view::npos; begin = rest.find('"')) {
        const auto end = rest.find('"', begin + 1);
        if (end == std::string_view::npos) {
            break;
        }
        found.emplace_back(rest.substr(begin + 1, end - begin - 1));
        rest.remove_prefix(end + 1);
    }
    return found;
}

// In hertz, equal temperament: A4 is 440.
double frequency(const std::string &note, std::size_t index) {
    constexpr int semitones[] = {0, 2, -9, -7, -5, -4, -2}; // of A to G, from the A of the same octave
    const bool sharp = note.size() == 3 && note[1] == '#';
    if (note.size() != (sharp ? 3U : 2U) || note[0] < 'A' || note[0] > 'G' || note.back() < '0' || note.back() > '8') {
        throw BadInput("notes[" + std::to_string(index) + "]", "must be a note such as A4 or C#5");
    }
    const int distance = semitones[note[0] - 'A'] + (sharp ? 1 : 0) + 12 * (note.back() - '4');
    return 440.0 * std::pow(2.0, distance / 12.0);
}

void put(std::string &into, std::uint32_t value, int size) {
    for (int shift = 0; shift < 8 * size; shift += 8) {
        into.push_back(static_cast<char>(value >> shift & 0xff));
    }
}

std::string wav(double hertz, double seconds, unsigned rate) {
    const auto samples = static_cast<std::uint32_t>(seconds * rate);
    std::string made = "RIFF";
    made.reserve(44 + 2 * samples);
    put(made, 36 + 2 * samples, 4);
    made += "WAVEfmt ";
    put(made, 16, 4);       // length of this block
    put(made, 1, 2);        // PCM
    put(made, 1, 2);        // channels
    put(made, rate, 4);     // samples per second
    put(made, 2 * rate, 4); // bytes per second
    put(made, 2, 2);        // bytes per sample
    put(made, 16, 2);       // bits per sample
    made += "data";
    put(made, 2 * samples, 4);
    const double edge = std::min(0.01, seconds / 4); // fades in and out, so that it does not click
    for (std::uint32_t index = 0; index < samples; index++) {
        const double at = static_cast<double>(index) / rate;
        const double loudness = 0.5 * std::min({1.0, at / edge, (seconds - at) / edge});
        put(made, static_cast<std::uint16_t>(std::lround(32767 * loudness * std::sin(2 * pi * hertz * at))), 2);
    }
    return made;
}

int report(penstock_error *error, int status, std::string_view message, std::string_view field = "") {
    error->message_size = std::min(message.size(), sizeof error->message);
    error->field_size = std::min(field.size(), sizeof error->field);
    std::memcpy(error->message, message.data(), error->message_size);
    std::memcpy(error->field, field.data(), error->field_size);
    return status;
}

int play(const Model &model, const penstock_request &request, const penstock_callbacks &callbacks) {
    const auto input = view(request.input);
    const double seconds = number(input, "seconds", 0.5);
    const auto notes = strings(input, "notes");
    for (std::size_t index = 0; index < notes.size(); index++) {
        const double hertz = frequency(notes[index], index);
        const std::string sound = wav(hertz, seconds, model.rate);
        const std::string json =
            "{\"note\":\"" + notes[index] + "\",\"frequency\":" + std::to_string(hertz) + ",\"sound\":null}";
        penstock_part part{};
        part.path = bytes("/sound");
        part.media_type = bytes("audio/wav");
        part.data = sound.data();
        part.size = sound.size();
        if (callbacks.chunk(callbacks.context, json.data(), json.size(), &part, 1) != 0) {
            return PENSTOCK_CANCELLED;
        }
        const std::string progress =
            "{\"fraction\":" + std::to_string(static_cast<double>(index + 1) / static_cast<double>(notes.size())) + "}";
        callbacks.progress(callbacks.context, progress.data(), progress.size());
    }
    return PENSTOCK_OK; // the chunks were all
}

} // namespace

extern "C" {

int penstock_abi(void) {
    return PENSTOCK_ABI;
}

int penstock_create(const char *config, size_t size, void **model, penstock_error *error) {
    try { // no exception may leave these functions
        const double rate = number({config, size}, "rate", 44100);
        if (!(rate >= 1000 && rate <= 192000)) {
            return report(error, PENSTOCK_FAILED, "rate must be from 1000 to 192000 samples per second");
        }
        *model = new Model{static_cast<unsigned>(rate)};
        return PENSTOCK_OK;
    } catch (const std::exception &failure) {
        return report(error, PENSTOCK_FAILED, failure.what());
    }
}

int penstock_predict(void *model, const penstock_request *request, const penstock_callbacks *callbacks,
                     penstock_result *, penstock_error *error) {
    try {
        return play(*static_cast<const Model *>(model), *request, *callbacks);
    } catch (const BadInput &refused) {
        return report(error, PENSTOCK_BAD_INPUT, refused.what(), refused.field);
    } catch (const std::exception &failure) {
        return report(error, PENSTOCK_FAILED, failure.what());
    }
}

void penstock_free_result(void *, penstock_result *) {} // there is nothing: chunks are copied when they are handed out

void penstock_destroy(void *model) {
    delete static_cast<Model *>(model);
}

} // extern "C"
