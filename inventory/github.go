package inventory

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
)

const maxRelease = 8 << 20 // bytes of what GitHub says of a release

// newestAsset asks GitHub for the newest release of a project and returns the URL
// of the asset whose name matches.
func (f *Fetcher) newestAsset(ctx context.Context, project, pattern string) (string, error) {
	match, err := regexp.Compile("(?i)" + pattern)
	if err != nil {
		return "", fmt.Errorf("github_asset_regex: %w: %w", err, ErrInvalid)
	}
	response, err := f.get(ctx, f.o.GithubAPI+"/repos/"+project+"/releases/latest", "application/vnd.github+json")
	if err != nil {
		return "", fmt.Errorf("ask for the newest release of %s: %w", project, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRelease))
	if err != nil {
		return "", fmt.Errorf("ask for the newest release of %s: %w", project, err)
	}
	return assetIn(text, project, match)
}

// assetIn finds an asset in GitHub's description of a release.
func assetIn(text []byte, project string, match *regexp.Regexp) (string, error) {
	var release struct {
		Assets []struct {
			Name string `json:"name"`
			URL  string `json:"browser_download_url"`
		} `json:"assets"`
	}
	if err := json.Unmarshal(text, &release); err != nil {
		return "", fmt.Errorf("newest release of %s: %w", project, err)
	}
	for _, asset := range release.Assets {
		if match.MatchString(asset.Name) && checkURL(asset.URL) == nil {
			return asset.URL, nil
		}
	}
	return "", fmt.Errorf("newest release of %s: none of its %d assets matches %s", project, len(release.Assets), match)
}
