package objects

import (
	"errors"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

var errNoCredentials = errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or have them in ~/.aws/credentials (profile AWS_PROFILE), or give the machine or pod a role")

// metadataPatience bounds a request for the credentials of the machine's role.
const metadataPatience = 5 * time.Second

// findCredentials looks in the environment, in the file of Amazon's tools, and for a role of the machine, container or pod, in this
// order, when the first request is signed and whenever what was found expires.
func findCredentials() *credentials.Credentials {
	return credentials.New(&foundCredentials{credentials.Chain{Providers: []credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Timeout: metadataPatience}},
	}}})
}

// foundCredentials is a chain for which to find nothing is an error: nobody keeps messages where anybody may write.
type foundCredentials struct{ credentials.Chain }

func (f *foundCredentials) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	return found(f.Chain.RetrieveWithCredContext(c))
}

func (f *foundCredentials) Retrieve() (credentials.Value, error) {
	return found(f.Chain.RetrieveWithCredContext(nil))
}

func found(v credentials.Value, err error) (credentials.Value, error) {
	if err == nil && v.AccessKeyID == "" {
		err = errNoCredentials
	}
	return v, err
}
