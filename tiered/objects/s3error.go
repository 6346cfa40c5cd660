package objects

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/minio/minio-go/v7"
)

// temporaryCodes are the codes of a wrong request that may be right when it is sent again: content that was cut short or damaged on
// its way, an upload in parts that somebody ended, another conditional write of the same name under way.
var temporaryCodes = map[string]bool{
	"BadDigest": true, "InvalidDigest": true, "IncompleteBody": true, "XAmzContentSHA256Mismatch": true, "RequestTimeout": true,
	"NoSuchUpload": true, "InvalidPart": true, "ExpiredToken": true, "ExpiredTokenException": true,
	"SlowDown": true, "Throttling": true, "ThrottlingException": true, "RequestLimitExceeded": true, "OperationAborted": true,
	"ConditionalRequestConflict": true, "UnexpectedEOF": true,
}

// s3Error says which of the errors that callers decide on the service's answer is, if any.
func s3Error(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	answer := minio.ToErrorResponse(err)
	switch kind := kindOf(answer); {
	case errors.Is(err, errNoCredentials):
		return fmt.Errorf("%s %s: %w: %w", verb, name, ErrRefused, err)
	case kind == nil:
		return fmt.Errorf("%s %s: %w", verb, name, err)
	case kind == ErrRefused:
		return fmt.Errorf("%s %s: %w: %w (%s)", verb, name, kind, err, answer.Code)
	default:
		return fmt.Errorf("%s %s: %w", verb, name, kind)
	}
}

// kindOf sorts an answer; nil is a temporary one.
func kindOf(answer minio.ErrorResponse) error {
	switch {
	case temporaryCodes[answer.Code]:
		return nil
	case answer.Code == "FileAlreadyExists":
		return ErrExists
	case answer.Code == "NoSuchBucket", answer.StatusCode == http.StatusInsufficientStorage:
		return ErrRefused
	}
	switch answer.StatusCode {
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusPreconditionFailed:
		return ErrExists
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests, 499:
		return nil
	case http.StatusNotImplemented, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		return ErrRefused
	}
	if answer.StatusCode >= 400 && answer.StatusCode < 500 {
		return ErrRefused
	}
	return nil
}
